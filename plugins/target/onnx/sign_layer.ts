/**
 * Layers of one sign a weight as `ai.dbf::BinaryMatMul` nodes.
 *
 * @module
 */
import { packedBytes, packedShape } from "../../../kernels/layout.ts";
import { mul } from "../../../pipeline/graph/ops.ts";
import { binaryMatMul, checkSignLayout } from "./dbf_layer.ts";
import type { LayerBuilder } from "./layer.ts";
import { checkElements, layerSources, packedFloats } from "./packed_source.ts";

/**
 * `Y = BinaryMatMul(X ⊙ b, S, a)`.
 *
 * @throws {RangeError} when the signs lie in another layout.
 */
export const signLayer: LayerBuilder = (g, { linear: { weight, rows, cols }, entry, source, dtype }, x) => {
  checkSignLayout(weight, entry.attributes.layout);
  const sizes = { bytes: { S: packedBytes(rows, cols) }, scales: { a: rows, b: cols } };
  const sources = layerSources(sizes, dtype, async () => {
    const layer = await source.layer(weight);
    checkElements(layer, weight, { ...sizes.bytes, ...sizes.scales });
    const { S, a, b } = layer.tensors;
    return { bytes: { S: S.data }, scales: { a: packedFloats(a), b: packedFloats(b) } };
  });
  const S = g.initializer(`${weight}.S`, "uint8", packedShape(rows, cols), sources.S);
  const b = g.initializer(`${weight}.b`, dtype, [cols], sources.b);
  const a = g.initializer(`${weight}.a`, dtype, [rows], sources.a);
  return binaryMatMul(g, mul(g, x, b), S, a, rows, cols);
};
