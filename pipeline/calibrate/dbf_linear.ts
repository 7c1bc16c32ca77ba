/**
 * Double-binary linears in block graphs.
 *
 * @module
 */
import { gemm, matMul, mul, unsqueeze } from "../graph/ops.ts";
import type { DbfFactors } from "../stream/stage.ts";
import { halfLatents, latentsOf, packLatents } from "./latents.ts";
import type { FactorsShape, LayerKind } from "./layer_kind.ts";

/** Latents `A` (rows, rank) and `B` (rank, cols); scales `a` (rows,), `mid` (rank,) and `b` (cols,). */
export const dbfLinear: LayerKind<DbfFactors, Extract<FactorsShape, { readonly kind: "dbf" }>> = {
  shapeOf: ({ rank }) => ({ kind: "dbf", rank }),
  latents: ({ role, rows, cols }, { rank }) => [
    { name: `${role}/A`, shape: [rows, rank] },
    { name: `${role}/B`, shape: [rank, cols] },
  ],
  scales: ({ role, rows, cols }, { rank }) => [
    { name: `${role}/a`, shape: [rows] },
    { name: `${role}/mid`, shape: [rank] },
    { name: `${role}/b`, shape: [cols] },
  ],
  fixed: () => [],
  // y = a ⊙ (A · (mid ⊙ (B · (b ⊙ x))))
  product(g, x, { role }, _, parts) {
    const inner = gemm(g, mul(g, x, parts.get(`${role}/b`)!), parts.get(`${role}/B`)!, { transB: true });
    const middle = mul(g, inner, parts.get(`${role}/mid`)!);
    return mul(g, gemm(g, middle, parts.get(`${role}/A`)!, { transB: true }), parts.get(`${role}/a`)!);
  },
  // Ŵ = diag(a)·A·diag(mid)·B·diag(b)
  weight(g, { role }, _, parts) {
    const left = mul(g, parts.get(`${role}/A`)!, parts.get(`${role}/mid`)!);
    const right = mul(g, parts.get(`${role}/B`)!, parts.get(`${role}/b`)!);
    return mul(g, matMul(g, left, right), unsqueeze(g, parts.get(`${role}/a`)!, [1]));
  },
  trained: (role, { A, B, a, mid, b, latents }) =>
    new Map([
      [`${role}/A`, latentsOf(A, latents?.A)],
      [`${role}/B`, latentsOf(B, latents?.B)],
      [`${role}/a`, a],
      [`${role}/mid`, mid],
      [`${role}/b`, b],
    ]),
  fixedData: () => new Map(),
  restore({ role, rows, cols }, before, values, options) {
    const part = (name: string) => values.get(`${role}/${name}`)!;
    return {
      ...before,
      A: packLatents(part("A"), rows, before.rank),
      B: packLatents(part("B"), before.rank, cols),
      a: part("a").slice(),
      mid: part("mid").slice(),
      b: part("b").slice(),
      latents: options.latents ? { A: halfLatents(part("A")), B: halfLatents(part("B")) } : undefined,
    };
  },
  signs: ({ A, B }) => [A, B],
};
