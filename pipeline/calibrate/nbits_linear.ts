/**
 * Rounded linears in block graphs: scales are trained, codes and zero points stay.
 *
 * @module
 */
import { cast, concat, gemm, mul, reshape, slice, sub, unsqueeze } from "../graph/ops.ts";
import type { Graph, Value } from "../graph/types.ts";
import { storedBits } from "../stream/factors.ts";
import { groupsOf } from "../stream/nbits_layout.ts";
import type { CodeBits, NbitsFactors } from "../stream/stage.ts";
import type { FactorsShape, LayerKind } from "./layer_kind.ts";

/**
 * Codes as numbers, in a graph.
 *
 * @param packed u8 `(…, bytes)`, the first code least significant.
 * @returns f32 `(…, bytes·8/width)`.
 */
export function unpackCodes(g: Graph, packed: Value, bits: CodeBits): Value {
  const width = storedBits(bits), shape = packed.shape as readonly number[];
  if (width === 8) return cast(g, packed, "float32");
  const mask = g.constant(Uint8Array.of(2 ** width - 1), [1], "uint8");
  const planes = Array.from({ length: 8 / width }, (_, place) => {
    const by = g.constant(Uint8Array.of(place * width), [1], "uint8");
    const shifted = place === 0 ? packed : g.node("BitShift", [packed, by], { direction: "RIGHT" })[0];
    return unsqueeze(g, g.node("BitwiseAnd", [shifted, mask])[0], [shape.length]);
  });
  const codes = reshape(g, concat(g, planes, shape.length), [
    ...shape.slice(0, -1),
    shape[shape.length - 1] * planes.length,
  ]);
  return cast(g, codes, "float32");
}

/** Scales `scale` (rows, groups); fixed `codes` (rows, groups, bytes) and `zeros` (rows, groups), u8. */
export const nbitsLinear: LayerKind<NbitsFactors, Extract<FactorsShape, { readonly kind: "nbits" }>> = {
  shapeOf: ({ bits, group }) => ({ kind: "nbits", bits, group }),
  latents: () => [],
  scales: ({ role, rows, cols }, { group }) => [{ name: `${role}/scale`, shape: [rows, groupsOf(cols, group)] }],
  fixed: ({ role, rows, cols }, { bits, group }) => {
    const groups = groupsOf(cols, group);
    return [
      { name: `${role}/codes`, dtype: "uint8", shape: [rows, groups, group * storedBits(bits) / 8] },
      { name: `${role}/zeros`, dtype: "uint8", shape: [rows, groups] },
    ];
  },
  product: (g, x, linear, shape, parts) => gemm(g, x, nbitsLinear.weight(g, linear, shape, parts), { transB: true }),
  // Ŵ[i,j] = scale[i,g]·(code[i,j] − zero[i,g])
  weight(g, { role, rows, cols }, { bits, group }, parts) {
    const groups = groupsOf(cols, group);
    const codes = unpackCodes(g, parts.get(`${role}/codes`)!, bits);
    const zeros = unsqueeze(g, cast(g, parts.get(`${role}/zeros`)!, "float32"), [2]);
    const wide = mul(g, sub(g, codes, zeros), unsqueeze(g, parts.get(`${role}/scale`)!, [2]));
    const flat = reshape(g, wide, [rows, groups * group]);
    return groups * group === cols ? flat : slice(g, flat, 1, 0, cols);
  },
  trained: (role, { scales }) => new Map([[`${role}/scale`, scales]]),
  fixedData: (role, { codes, zeros }) => new Map([[`${role}/codes`, codes], [`${role}/zeros`, zeros]]),
  restore: ({ role }, before, values) => ({ ...before, scales: values.get(`${role}/scale`)!.slice() }),
  signs: () => [],
};
