/**
 * Layers that stay dense.
 *
 * @module
 */
import type { ArtefactReader } from "../../../pipeline/artefact/types.ts";
import {
  denseBytes,
  denseSource,
  type DenseTensor,
  MOST_TRANSPOSED_BYTES,
  transposedSource,
} from "../../../pipeline/export/dense_stream.ts";
import { concat, gemm, int64s, matMul, reshape, shape } from "../../../pipeline/graph/ops.ts";
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import type { LayerBuilder } from "./layer.ts";

/**
 * A dense entry as a tensor to stream.
 *
 * @throws {RangeError} when the source lacks it, or it has another shape.
 * @throws {TypeError} when it is not dense.
 */
export function denseTensor(source: ArtefactReader, name: string, expected: readonly number[]): DenseTensor {
  const entry = source.entries.get(name);
  if (entry === undefined) throw new RangeError(`Cannot export ${source.directory}: it has no tensor "${name}"`);
  if (entry.kind !== "dense") throw new TypeError(`Cannot export "${name}" as dense: current kind is ${entry.kind}`);
  if (String(entry.shape) !== String(expected)) {
    throw new RangeError(
      `Cannot export "${name}" as [${expected.join(", ")}]: current shape is [${entry.shape.join(", ")}]`,
    );
  }
  return { name, shape: entry.shape, readRows: (start, end) => source.readRows(name, start, end) };
}

/**
 * `x·Wᵀ` with W stored transposed, `(cols, rows)`: one MatMul, nothing to rearrange at load and a third faster on prompts
 * than Gemm with W as it is, which serves matrices too large to transpose on the way.
 */
export const denseLayer: LayerBuilder = (g, { linear, source, dtype }, x) => {
  const shape = [linear.rows, linear.cols], tensor = denseTensor(source, linear.weight, shape);
  if (denseBytes(shape, dtype) > MOST_TRANSPOSED_BYTES) {
    return untransposedProduct(g, x, g.initializer(linear.weight, dtype, shape, denseSource(tensor, dtype)));
  }
  const name = `${linear.weight}.transposed`;
  return matMul(g, x, g.initializer(name, dtype, [linear.cols, linear.rows], transposedSource(tensor, dtype)));
};

/**
 * `x·Wᵀ` with W as it is, for large matrices, and for a head tied to the embedding: it is stored once.
 *
 * @param x `[batch, sequence, cols]`.
 * @param weight `[rows, cols]`.
 */
export function untransposedProduct(g: Graph, x: Value, weight: Value): Value {
  const [rows, cols] = weight.shape as readonly number[];
  const flat = gemm(g, reshape(g, x, [-1, cols]), weight, { transB: true });
  return reshape(g, flat, concat(g, [shape(g, x, 0, 2), int64s(g, [rows])], 0));
}
