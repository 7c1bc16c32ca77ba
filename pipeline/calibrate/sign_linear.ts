/**
 * Linears of one sign a weight in block graphs.
 *
 * @module
 */
import { gemm, mul, unsqueeze } from "../graph/ops.ts";
import type { SignFactors } from "../stream/stage.ts";
import { halfLatents, latentsOf, packLatents } from "./latents.ts";
import type { FactorsShape, LayerKind } from "./layer_kind.ts";

/** Latents `S` (rows, cols); scales `a` (rows,) and `b` (cols,). */
export const signLinear: LayerKind<SignFactors, Extract<FactorsShape, { readonly kind: "sign" }>> = {
  shapeOf: () => ({ kind: "sign" }),
  latents: ({ role, rows, cols }) => [{ name: `${role}/S`, shape: [rows, cols] }],
  scales: ({ role, rows, cols }) => [{ name: `${role}/a`, shape: [rows] }, { name: `${role}/b`, shape: [cols] }],
  fixed: () => [],
  product: (g, x, linear, shape, parts) => gemm(g, x, signLinear.weight(g, linear, shape, parts), { transB: true }),
  // Ŵ = diag(a)·S·diag(b)
  weight: (g, { role }, _, parts) =>
    mul(
      g,
      mul(g, parts.get(`${role}/S`)!, parts.get(`${role}/b`)!),
      unsqueeze(g, parts.get(`${role}/a`)!, [1]),
    ),
  trained: (role, { S, a, b, latents }) =>
    new Map([[`${role}/S`, latentsOf(S, latents?.S)], [`${role}/a`, a], [`${role}/b`, b]]),
  fixedData: () => new Map(),
  restore({ role, rows, cols }, before, values, options) {
    const part = (name: string) => values.get(`${role}/${name}`)!;
    return {
      ...before,
      S: packLatents(part("S"), rows, cols),
      a: part("a").slice(),
      b: part("b").slice(),
      latents: options.latents ? { S: halfLatents(part("S")) } : undefined,
    };
  },
  signs: ({ S }) => [S],
};
