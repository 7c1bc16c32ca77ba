/**
 * Rounded layers as `com.microsoft::MatMulNBits` nodes.
 *
 * @module
 */
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import { type CodeBits, storedBits } from "../../../pipeline/stream/factors.ts";
import { codeBytes, groupsOf, zeroRowBytes } from "../../../pipeline/stream/nbits_layout.ts";
import { nbitsAttributes } from "../../packing/nbits.ts";
import type { LayerBuilder } from "./layer.ts";
import { checkElements, layerSources, packedFloats } from "./packed_source.ts";

/** Domain of ONNX Runtime's own operators. */
export const MICROSOFT_DOMAIN = "com.microsoft";

/** Codes `(N, groups, bytes)`, scales `(N·groups,)`, and packed zero points where they are not the middle of the range. */
export interface NbitsTensors {
  readonly codes: Value;
  readonly scales: Value;
  readonly zeros?: Value;
}

/** `x·Wᵀ` with a rounded W `(N, K)`: one node. 3-bit codes are products of 4 bits, which is what ONNX Runtime has. */
export function matMulNBits(
  g: Graph,
  x: Value,
  { codes, scales, zeros }: NbitsTensors,
  sizes: { readonly N: number; readonly K: number; readonly bits: CodeBits; readonly group: number },
): Value {
  const { N, K, bits, group } = sizes;
  const inputs = zeros === undefined ? [x, codes, scales] : [x, codes, scales, zeros];
  return g.node("MatMulNBits", inputs, { K, N, bits: storedBits(bits), block_size: group }, {
    domain: MICROSOFT_DOMAIN,
    outputs: [{ dtype: x.dtype, shape: [...x.shape.slice(0, -1), N] }],
  })[0];
}

/**
 * One MatMulNBits node.
 *
 * @throws {RangeError} when the entry's bits or group are none that the operator has.
 */
export const nbitsLayer: LayerBuilder = (g, { linear: { weight, rows, cols }, entry, source, dtype }, x) => {
  const { bits, group } = nbitsAttributes(weight, entry.attributes);
  const hasZeros = entry.attributes.zeros === true;
  const groups = groupsOf(cols, group), zeroBytes = rows * zeroRowBytes(cols, bits, group);
  const sizes = {
    bytes: { codes: codeBytes(rows, cols, bits, group), ...(hasZeros ? { zeros: zeroBytes } : {}) },
    scales: { scales: rows * groups },
  };
  const sources = layerSources(sizes, dtype, async () => {
    const layer = await source.layer(weight);
    checkElements(layer, weight, { ...sizes.bytes, ...sizes.scales });
    const { codes, scales, zeros } = layer.tensors;
    return {
      bytes: { codes: codes.data, ...(hasZeros ? { zeros: zeros.data } : {}) },
      scales: { scales: packedFloats(scales) },
    };
  });
  const shape = [rows, groups, group * storedBits(bits) / 8];
  const codes = g.initializer(`${weight}.codes`, "uint8", shape, sources.codes);
  const zeros = hasZeros ? g.initializer(`${weight}.zeros`, "uint8", [zeroBytes], sources.zeros) : undefined;
  const scales = g.initializer(`${weight}.scales`, dtype, [rows * groups], sources.scales);
  return matMulNBits(g, x, { codes, scales, zeros }, { N: rows, K: cols, bits, group });
};
