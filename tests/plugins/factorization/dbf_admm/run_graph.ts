/** Runs a graph once on the provider under test, f64 matrices in and out. */
import { openRuntime } from "../../../../kernels/runtime/open.ts";
import { provider } from "../../../kernels/runtime/graphs.ts";
import type { Tensor } from "../../../../kernels/runtime/types.ts";
import { encodeModel } from "../../../../pipeline/graph/encode.ts";
import type { Graph } from "../../../../pipeline/graph/types.ts";
import type { Matrix } from "./twins.ts";

/** One runtime for all graph tests. */
export const runtime = await openRuntime({ threads: 1, provider });

/** Feeds f32 copies of `feeds` (numbers are scalars, bigints int64 scalars) and reads every output. */
export async function runGraph(
  graph: Graph,
  feeds: Readonly<Record<string, Matrix | number | bigint>>,
): Promise<Record<string, ArrayLike<number>>> {
  await using session = await runtime.load(encodeModel(graph), { tf32: false });
  const tensors: Record<string, Tensor> = {};
  for (const [name, value] of Object.entries(feeds)) {
    tensors[name] = typeof value === "bigint"
      ? runtime.tensor("int64", BigInt64Array.of(value), [])
      : typeof value === "number"
      ? runtime.tensor("float32", Float32Array.of(value), [])
      : runtime.tensor("float32", Float32Array.from(value.data), [value.rows, value.cols]);
  }
  const outputs = await session.run(tensors);
  const result: Record<string, ArrayLike<number>> = {};
  for (const [name, tensor] of Object.entries(outputs)) {
    const data = await tensor.read();
    result[name] = data instanceof BigInt64Array ? Array.from(data, Number) : data as Float32Array;
  }
  return result;
}
