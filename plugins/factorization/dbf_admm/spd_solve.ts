/**
 * Solves with a symmetric positive definite matrix from matrix products alone, so that they run on every provider.
 *
 * Recursive block Cholesky. An explicit inverse by Schur complements loses ‖M‖²/λmin in single precision (a Gram matrix
 * of heavily weighted columns has eigenvalues in the hundreds: it diverged); this loses ‖M‖ and needs fewer products.
 *
 * @module
 */
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import { add, concat, gemm, mul, slice, sub } from "../../../pipeline/graph/ops.ts";

/** What is known of the matrix when the graph is built. */
export interface SpdBounds {
  /** Below every eigenvalue; > 0. */
  readonly lowest: number;
  /** At least every diagonal entry of the matrix without its shift. */
  readonly diagonal: number;
  /** At least the multiple of I that was added. */
  readonly shift: number;
  /** Blocks up to this size get their inverse square root by Newton–Schulz. */
  readonly leaf: number;
  /** Blocks up to this size get an explicit inverse factor; above, solves go by substitution. */
  readonly block: number;
}

/** A factored matrix: R with RᵀR = M⁻¹, explicitly or as L = [[L₁, 0], [Vᵀ, L₂]]. */
export type SpdFactor =
  | { readonly size: number; readonly r: Value }
  | { readonly size: number; readonly left: SpdFactor; readonly right: SpdFactor; readonly v: Value };

/** Newton–Schulz has converged when its bound on 1 − eigenvalue is below this; two more steps square it twice. */
const NEAR_ONE = 1e-2;

/** About half of `size`, a multiple of `unit`. */
function half(size: number, unit: number): number {
  return Math.max(unit, Math.ceil(size / unit / 2) * unit);
}

/** What a step makes of an eigenvalue x of ZY: x(3 − x)²/4. */
function stepped(x: number): number {
  return x * (3 - x) ** 2 / 4;
}

/** The factor c ∈ [1, 3) that maximizes the least eigenvalue after a step from [l, 1]: both ends meet. */
function bestScale(l: number): number {
  let low = 1, high = 3;
  for (let i = 0; i < 60; i++) {
    const c = (low + high) / 2;
    if (stepped(c) > stepped(c * l)) low = c;
    else high = c;
  }
  return low;
}

/**
 * M^−½ by the coupled Newton–Schulz iteration Y ← YT, Z ← TZ, T = √c/2·(3I − c·ZY) from Y = M/u, Z = I, with c chosen
 * for the spectrum's known bounds (Higham, Functions of Matrices, 6.7 and 8.6; scaling as in Chen & Chow 2014).
 */
function inverseSquareRoot(g: Graph, m: Value, size: number, bounds: SpdBounds): Value {
  // A Schur complement lies below its block, whose largest eigenvalue is at most its trace plus the shift.
  const highest = bounds.diagonal * size + bounds.shift;
  if (size === 1) return g.node("Reciprocal", [g.node("Sqrt", [m])[0]])[0];
  const identity = new Float32Array(size * size);
  for (let i = 0; i < size; i++) identity[i * size + i] = 1.5;
  const eye = g.constant(identity, [size, size]); // 3/2·I
  let low = Math.min(1, bounds.lowest / highest);
  const scales: number[] = [];
  while (1 - low > NEAR_ONE) {
    const c = bestScale(low);
    scales.push(c);
    low = stepped(c * low);
  }
  scales.push(1, 1);
  let y = mul(g, m, 1 / highest);
  let z: Value | undefined;
  scales.forEach((c, index) => {
    const root = Math.sqrt(c), scaled = root === 1 ? eye : mul(g, eye, root);
    const t = z === undefined
      ? sub(g, scaled, mul(g, y, root * c / 2))
      : gemm(g, z, y, { alpha: -root * c / 2, c: scaled });
    if (index + 1 < scales.length) y = gemm(g, y, t);
    const last = index + 1 === scales.length ? 1 / Math.sqrt(highest) : 1;
    z = z === undefined ? t : gemm(g, t, z, { alpha: last });
  });
  return z!;
}

/** The four quarters of `m`, split at `h`; the lower left is the upper right's transpose. */
function quarters(g: Graph, m: Value, size: number, h: number) {
  const top = slice(g, m, 0, 0, h), bottom = slice(g, m, 0, h, size);
  return { m11: slice(g, top, 1, 0, h), m12: slice(g, top, 1, h, size), m22: slice(g, bottom, 1, h, size) };
}

/** R with RᵀR = M⁻¹ for a block, block lower triangular. */
function explicitFactor(g: Graph, m: Value, size: number, bounds: SpdBounds): Value {
  if (size <= bounds.leaf) return inverseSquareRoot(g, m, size, bounds);
  const h = half(size, bounds.leaf);
  const { m11, m12, m22 } = quarters(g, m, size, h);
  const r1 = explicitFactor(g, m11, h, bounds);
  const v = gemm(g, r1, m12);
  const r2 = explicitFactor(g, gemm(g, v, v, { transA: true, alpha: -1, c: m22 }), size - h, bounds);
  const below = gemm(g, r2, gemm(g, v, r1, { transA: true }), { alpha: -1 });
  const zero = g.constant(new Float32Array(h * (size - h)), [h, size - h]);
  return concat(g, [concat(g, [r1, zero], 1), concat(g, [below, r2], 1)], 0);
}

/**
 * Factors a symmetric positive definite `m` `(size, size)`; reads its upper triangle of blocks.
 *
 * @returns What {@linkcode solveSpd} takes.
 */
export function factorSpd(g: Graph, m: Value, size: number, bounds: SpdBounds): SpdFactor {
  if (size <= bounds.block) return { size, r: explicitFactor(g, m, size, bounds) };
  const h = half(size, bounds.block);
  const { m11, m12, m22 } = quarters(g, m, size, h);
  const left = factorSpd(g, m11, h, bounds);
  const v = forward(g, left, m12);
  const right = factorSpd(g, gemm(g, v, v, { transA: true, alpha: -1, c: m22 }), size - h, bounds);
  return { size, left, right, v };
}

/** L⁻¹·t. */
function forward(g: Graph, factor: SpdFactor, t: Value): Value {
  if ("r" in factor) return gemm(g, factor.r, t);
  const { left, right, v, size } = factor;
  const y1 = forward(g, left, slice(g, t, 0, 0, left.size));
  const y2 = forward(g, right, gemm(g, v, y1, { transA: true, alpha: -1, c: slice(g, t, 0, left.size, size) }));
  return concat(g, [y1, y2], 0);
}

/** L⁻ᵀ·y. */
function backward(g: Graph, factor: SpdFactor, y: Value): Value {
  if ("r" in factor) return gemm(g, factor.r, y, { transA: true });
  const { left, right, v, size } = factor;
  const x2 = backward(g, right, slice(g, y, 0, left.size, size));
  const x1 = backward(g, left, gemm(g, v, x2, { alpha: -1, c: slice(g, y, 0, 0, left.size) }));
  return concat(g, [x1, x2], 0);
}

/** M⁻¹·t for `t` `(size, p)`. */
export function solveSpd(g: Graph, factor: SpdFactor, t: Value): Value {
  return backward(g, factor, forward(g, factor, t));
}

/** `m + λI` for a square `m` and a scalar value λ. */
export function addDiagonal(g: Graph, m: Value, size: number, lambda: Value): Value {
  const shape = g.constant(BigInt64Array.of(BigInt(size), BigInt(size)), [2], "int64");
  const zero = g.node("ConstantOfShape", [shape], {
    value: { tensor: { dtype: "float32", shape: [1], data: Float32Array.of(0) } },
  }, { outputs: [{ dtype: "float32", shape: [size, size] }] })[0];
  const eye = g.node("EyeLike", [zero], {}, { outputs: [{ dtype: "float32", shape: [size, size] }] })[0];
  return add(g, m, mul(g, eye, lambda));
}
