/**
 * Sign-value-independent decomposition: X ≈ sign(X) ⊙ u·vᵀ with u·vᵀ the best rank-one fit of |X| (arXiv 2402.11295, section 3.2).
 *
 * @module
 */
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import { abs, add, div, gemm, greaterOrEqual, mul, reduceSumSquare, sqrt, where } from "../../../pipeline/graph/ops.ts";

/** Keeps quotients of all-zero matrices finite. */
const TINY = 1e-30;

/** Row and column magnitudes of a matrix: `|X| ≈ u·v`, ‖v‖ = 1. */
export interface RankOne {
  /** `(rows, 1)`. */
  readonly u: Value;
  /** `(1, cols)`, unit length. */
  readonly v: Value;
}

/** +1 where `x ≥ 0`, −1 elsewhere. */
export function signOf(g: Graph, x: Value): Value {
  return where(g, greaterOrEqual(g, x, 0), 1, -1);
}

/** `x` `(1, n)` over its length. */
export function unit(g: Graph, x: Value): Value {
  return div(g, x, add(g, sqrt(g, reduceSumSquare(g, x)), TINY));
}

/** `|x|` + 1e-30, elementwise. */
export function magnitudeOf(g: Graph, x: Value): Value {
  return add(g, abs(g, x), TINY);
}

/**
 * Power iteration on a matrix of magnitudes, started from `v`: v ← |X|ᵀ|X|v / ‖·‖, then u = |X|v.
 *
 * @param magnitude `(rows, cols)`, > 0.
 * @param v `(1, cols)`, positive.
 */
export function rankOne(g: Graph, magnitude: Value, v: Value, iterations: number): RankOne {
  let u = gemm(g, magnitude, v, { transB: true });
  for (let i = 0; i < iterations; i++) {
    v = unit(g, gemm(g, u, magnitude, { transA: true }));
    u = gemm(g, magnitude, v, { transB: true });
  }
  return { u, v };
}

/** `sign(x) ⊙ u·v`, zero where x is zero. x/|x| is several times faster than ONNX Runtime's scalar Sign on CPUs. */
export function signed(g: Graph, x: Value, magnitude: Value, { u, v }: RankOne): Value {
  return mul(g, mul(g, div(g, x, magnitude), u), v);
}
