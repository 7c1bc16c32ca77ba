/** Runs a graph once on the CPU, f64 matrices in and out. */
import { openRuntime } from "../../../../kernels/runtime/open.ts";
import type { Tensor } from "../../../../kernels/runtime/types.ts";
import { encodeModel } from "../../../../pipeline/graph/encode.ts";
import type { Graph } from "../../../../pipeline/graph/types.ts";
import type { Matrix } from "./twins.ts";

/** One runtime for all graph tests. */
export const runtime = await openRuntime({ threads: 1 });

/** Feeds f32 copies of `feeds` (numbers are scalars) and reads every output. */
export async function runGraph(
  graph: Graph,
  feeds: Readonly<Record<string, Matrix | number>>,
): Promise<Record<string, ArrayLike<number>>> {
  await using session = await runtime.load(encodeModel(graph));
  const tensors: Record<string, Tensor> = {};
  for (const [name, value] of Object.entries(feeds)) {
    tensors[name] = typeof value === "number"
      ? runtime.tensor("float32", Float32Array.of(value), [])
      : runtime.tensor("float32", Float32Array.from(value.data), [value.rows, value.cols]);
  }
  const outputs = await session.run(tensors);
  const result: Record<string, ArrayLike<number>> = {};
  for (const [name, tensor] of Object.entries(outputs)) result[name] = await tensor.read() as Float32Array;
  return result;
}
