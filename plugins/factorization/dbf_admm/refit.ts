/**
 * Exact least-squares scales for fixed signs.
 *
 * @module
 */
import type { Graph } from "../../../pipeline/graph/types.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { add, div, gemm, max, mul, reduceSum, reduceSumSquare, reshape, sub } from "../../../pipeline/graph/ops.ts";
import { factorSpd, matrixBlocks, solveSpd, type SpdBounds } from "./spd_solve.ts";

/** Proximal weight of the middle scale's solve, in units of the system's diagonal. */
const PROXIMAL = 3e-3;
/** Below any denominator that is not zero: W̃ has mean square one. */
const TINY = 1e-20;

/**
 * One round of the refit of W̃ ≈ diag(a)·A·diag(mid)·B·diag(b):
 * a_i = ⟨W̃_i, X_i⟩/⟨X_i, X_i⟩ with X = A·diag(mid)·B·diag(b), b likewise, then mid += (H + εI)⁻¹(q − H·mid) with
 * H = PPᵀ ⊙ QQᵀ, q = diag(P·W̃·Qᵀ), P = Aᵀ diag(a), Q = B diag(b). No part raises the error, whatever ε.
 *
 * Inputs: `w` `(n, m)`, `A` `(k, n)`, `B` `(k, m)` of ±1, `a` `(n, 1)`, `mid` `(k, 1)`, `b` `(1, m)`.
 * Outputs: `a_next`, `mid_next`, `b_next`.
 *
 * @param blocks Block sizes of the solve.
 */
export function refitGraph(
  n: number,
  m: number,
  k: number,
  blocks: Pick<SpdBounds, "leaf" | "block" | "native">,
): Graph {
  const g = createGraph("refit");
  const w = g.input("w", "float32", [n, m]);
  const signsA = g.input("A", "float32", [k, n]), signsB = g.input("B", "float32", [k, m]);
  let a = g.input("a", "float32", [n, 1]), b = g.input("b", "float32", [1, m]);
  let mid = g.input("mid", "float32", [k, 1]);
  const x = gemm(g, mul(g, signsA, mid), signsB, { transA: true }); // A·diag(mid)·B
  const wx = mul(g, w, x), xx = mul(g, x, x);
  a = div(g, gemm(g, wx, b, { transB: true }), max(g, gemm(g, xx, mul(g, b, b), { transB: true }), TINY));
  b = div(g, gemm(g, a, wx, { transA: true }), max(g, gemm(g, mul(g, a, a), xx, { transA: true }), TINY));
  const p = mul(g, signsA, reshape(g, a, [1, n])), q = mul(g, signsB, b);
  // Signs are ±1, so the diagonal of H is constant: ‖a‖²‖b‖².
  const diagonal = max(
    g,
    mul(g, reduceSumSquare(g, a, undefined, false), reduceSumSquare(g, b, undefined, false)),
    TINY,
  );
  const h = div(g, mul(g, gemm(g, p, p, { transB: true }), gemm(g, q, q, { transB: true })), diagonal);
  const target = div(g, reduceSum(g, mul(g, gemm(g, p, w), q), [1]), diagonal);
  const bounds = { lowest: PROXIMAL, diagonal: 1.001, shift: PROXIMAL, ...blocks };
  const [factor] = factorSpd(g, matrixBlocks(g, h), k, [{ lambda: g.constant(PROXIMAL), bounds }]);
  mid = add(g, mid, solveSpd(g, factor, sub(g, target, gemm(g, h, mid))));
  g.output("a_next", a);
  g.output("mid_next", mid);
  g.output("b_next", b);
  return g;
}

/** Mean square of the residual: inputs as in {@linkcode refitGraph}, output `error` = ‖W̃ − Ŵ‖²/(n·m), a scalar. */
export function errorGraph(n: number, m: number, k: number): Graph {
  const g = createGraph("error");
  const w = g.input("w", "float32", [n, m]);
  const signsA = g.input("A", "float32", [k, n]), signsB = g.input("B", "float32", [k, m]);
  const a = g.input("a", "float32", [n, 1]), b = g.input("b", "float32", [1, m]);
  const mid = g.input("mid", "float32", [k, 1]);
  const x = gemm(g, mul(g, signsA, mid), signsB, { transA: true });
  const residual = sub(g, w, mul(g, mul(g, x, a), b));
  g.output("error", reduceSum(g, div(g, reduceSumSquare(g, residual, [1]), n * m), [0]));
  return g;
}
