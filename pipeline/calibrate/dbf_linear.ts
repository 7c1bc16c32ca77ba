/**
 * Double-binary linears in block graphs.
 *
 * @module
 */
import { gemm, matMul, mul, unsqueeze } from "../graph/ops.ts";
import type { DbfFactors } from "../stream/stage.ts";
import { halfLatents, latentsOf, packLatents } from "./latents.ts";
import type { Value } from "../graph/types.ts";
import type { FactorsShape, LayerKind, LinearShape } from "./layer_kind.ts";

/** What multiplying out Ŵ may cost more in operations, as it is fewer and larger products without the tokens' middles between them. */
const WORTH = 1.125;

/** Whether `x·Ŵᵀ` takes `n·m·(tokens + k)` multiplications, Ŵ's own included, rather than the two products' `tokens·k·(n + m)`. */
function isDense({ rows, cols }: LinearShape, rank: number, tokens: number): boolean {
  return rows * cols * (tokens + rank) <= WORTH * tokens * rank * (rows + cols);
}

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
  product(g, x, linear, shape, parts) {
    const [tokens] = x.shape as readonly number[];
    if (isDense(linear, shape.rank, tokens)) {
      return gemm(g, x, dbfLinear.weight(g, linear, shape, parts), { transB: true });
    }
    // y = (x · (diag(mid)·B·diag(b))ᵀ) · (diag(a)·A)ᵀ: scales of weights are fewer products than scales of tokens
    const part = (name: string): Value => parts.get(`${linear.role}/${name}`)!;
    const right = mul(g, mul(g, part("B"), part("b")), unsqueeze(g, part("mid"), [1]));
    const left = mul(g, part("A"), unsqueeze(g, part("a"), [1]));
    return gemm(g, gemm(g, x, right, { transB: true }), left, { transB: true });
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
