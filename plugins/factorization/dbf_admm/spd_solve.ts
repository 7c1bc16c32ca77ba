/**
 * Solves with a symmetric positive definite matrix from matrix products alone, so that they run on every provider.
 *
 * Recursive block Cholesky. An explicit inverse by Schur complements loses ‖M‖²/λmin in single precision (a Gram matrix
 * of heavily weighted columns has eigenvalues in the hundreds: it diverged); this loses ‖M‖ and needs fewer products.
 *
 * @module
 */
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import { add, concat, gemm, int64s, mul, neg, slice, sub, transpose } from "../../../pipeline/graph/ops.ts";
import { spdRoots } from "./native_ops.ts";

/** What is known of the matrix M + λI when the graph is built. */
export interface SpdBounds {
  /** Below every eigenvalue of M + λI; > 0. */
  readonly lowest: number;
  /** At least every diagonal entry of M. */
  readonly diagonal: number;
  /** At least λ. */
  readonly shift: number;
  /** Blocks up to this size get their inverse square root by Newton–Schulz. */
  readonly leaf: number;
  /** Blocks up to this size get an explicit inverse factor; above, solves go by substitution. */
  readonly block: number;
  /** Inverse factors of blocks come from the native operator instead, leaves and all. */
  readonly native?: boolean;
}

/** What is added to a matrix, and what is known of the sum. */
export interface Shift {
  /** λ, a scalar value. */
  readonly lambda: Value;
  readonly bounds: SpdBounds;
}

/** Rows or columns `[start, end)`. */
export type Range = readonly [start: number, end: number];

/** Blocks of a symmetric matrix on demand; only blocks on and above the diagonal are asked for. */
export type BlockSource = (rows: Range, cols: Range) => Value;

/** A factored matrix: R with RᵀR = M⁻¹, explicitly or as L = [[L₁, 0], [Vᵀ, L₂]]. */
export type SpdFactor =
  | { readonly size: number; readonly r: Value }
  | { readonly size: number; readonly left: SpdFactor; readonly right: SpdFactor; readonly v: Value };

/** Largest 1 − eigenvalue after Newton–Schulz; a step makes ¾e² of e. */
const CONVERGED = 1e-6;

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

/** Scales of all steps for a spectrum in [l, 1]. */
function stepScales(l: number): number[] {
  const scales: number[] = [];
  for (let low = Math.min(1, l); 1 - low > CONVERGED;) {
    // Close to one the scaled step gains nothing, and c = 1 leaves what is above untouched.
    const c = low < 0.9 ? bestScale(low) : 1;
    scales.push(c);
    low = stepped(c * low);
  }
  return scales.length > 0 ? scales : [1];
}

const eyes = new WeakMap<Graph, Map<number, Value>>();

/** I, one constant per graph and size. */
function identity(g: Graph, size: number): Value {
  const known = eyes.get(g) ?? new Map<number, Value>();
  eyes.set(g, known);
  let eye = known.get(size);
  if (eye === undefined) {
    const data = new Float32Array(size * size);
    for (let i = 0; i < size; i++) data[i * size + i] = 1;
    known.set(size, eye = g.constant(data, [size, size]));
  }
  return eye;
}

/**
 * (M + λI)^−½ by the coupled Newton–Schulz iteration Y ← YT, Z ← TZ, T = √c/2·(3I − c·ZY) from Y = (M + λI)/u, Z = I, with c
 * chosen for the spectrum's known bounds (Higham, Functions of Matrices, 6.7 and 8.6; scaling as in Chen & Chow 2014).
 */
function inverseSquareRoot(g: Graph, m: Value, size: number, lambda: Value, bounds: SpdBounds): Value {
  const eye = identity(g, size);
  const shifted = add(g, m, mul(g, eye, lambda));
  if (size === 1) return g.node("Reciprocal", [g.node("Sqrt", [shifted])[0]])[0];
  // A Schur complement lies below its block, whose largest eigenvalue is at most its trace plus the shift.
  const highest = bounds.diagonal * size + bounds.shift;
  const scales = stepScales(bounds.lowest / highest);
  let y = mul(g, shifted, 1 / highest);
  let z: Value | undefined;
  scales.forEach((c, index) => {
    const root = Math.sqrt(c), beta = 1.5 * root;
    const last = index + 1 === scales.length;
    const t = z === undefined
      ? sub(g, mul(g, eye, beta), mul(g, y, root * c / 2))
      : gemm(g, z, y, { alpha: -root * c / 2, beta, c: eye });
    if (!last) y = gemm(g, y, t);
    const scale = last ? 1 / Math.sqrt(highest) : 1;
    z = z === undefined ? (scale === 1 ? t : mul(g, t, scale)) : gemm(g, t, z, { alpha: scale });
  });
  return z!;
}

/** Rows × columns of `m` in one node. */
function blockOf(g: Graph, m: Value, rows: Range, cols: Range): Value {
  return g.node("Slice", [m, int64s(g, [rows[0], cols[0]]), int64s(g, [rows[1], cols[1]]), int64s(g, [0, 1])])[0];
}

/** R with RᵀR = (M + λI)⁻¹ for a block, block lower triangular. */
function explicitFactor(g: Graph, m: Value, size: number, lambda: Value, bounds: SpdBounds): Value {
  if (size <= bounds.leaf) return inverseSquareRoot(g, m, size, lambda, bounds);
  const h = half(size, bounds.leaf);
  const r1 = explicitFactor(g, blockOf(g, m, [0, h], [0, h]), h, lambda, bounds);
  const v = gemm(g, r1, blockOf(g, m, [0, h], [h, size]));
  const schur = gemm(g, v, v, { transA: true, alpha: -1, c: blockOf(g, m, [h, size], [h, size]) });
  const r2 = explicitFactor(g, schur, size - h, lambda, bounds);
  const below = gemm(g, r2, gemm(g, v, r1, { transA: true }), { alpha: -1 });
  const zero = g.constant(new Float32Array(h * (size - h)), [h, size - h]);
  return concat(g, [concat(g, [r1, zero], 1), concat(g, [below, r2], 1)], 0);
}

/** Remembers the blocks that `source` made. */
function remembered(source: BlockSource): BlockSource {
  const known = new Map<string, Value>();
  return (rows, cols) => {
    const key = `${rows}:${cols}`;
    const block = known.get(key) ?? source(rows, cols);
    known.set(key, block);
    return block;
  };
}

/** Blocks of F·Fᵀ for F `(k, q)`: only what is on or above the diagonal blocks is ever computed. */
export function gramBlocks(g: Graph, f: Value): BlockSource {
  const size = f.shape[0] as number;
  const rowsOf = (range: Range) => range[1] - range[0] === size ? f : slice(g, f, 0, range[0], range[1]);
  const pieces = new Map<string, Value>();
  const piece = (range: Range) => {
    const value = pieces.get(`${range}`) ?? rowsOf(range);
    pieces.set(`${range}`, value);
    return value;
  };
  return remembered((rows, cols) => gemm(g, piece(rows), piece(cols), { transB: true }));
}

/** Blocks of a matrix that exists. */
export function matrixBlocks(g: Graph, m: Value): BlockSource {
  return remembered((rows, cols) => blockOf(g, m, rows, cols));
}

/** Factors of M + λI for every shift, where M differs by shift below the first blocks; block by block, so that all shifts run together. */
function factorAll(
  g: Graph,
  sources: readonly BlockSource[],
  range: Range,
  shifts: readonly Shift[],
): readonly SpdFactor[] {
  const [start, end] = range, size = end - start, { block, native } = shifts[0].bounds;
  if (size <= block) {
    const blocks = sources.map((source) => source(range, range));
    const roots = native
      ? spdRoots(g, blocks, shifts.map(({ lambda }) => lambda))
      : shifts.map(({ lambda, bounds }, i) => explicitFactor(g, blocks[i], size, lambda, bounds));
    return roots.map((r) => ({ size, r }));
  }
  const middle = start + half(size, block);
  const lefts = factorAll(g, sources, [start, middle], shifts);
  const vs = lefts.map((left, i) => joined(g, forward(g, left, { whole: sources[i]([start, middle], [middle, end]) })));
  const complements = vs.map((v, i): BlockSource => {
    const part = remembered((_, [from, to]) =>
      from === middle && to === end ? v : slice(g, v, 1, from - middle, to - middle)
    );
    return (rows, cols) =>
      gemm(g, part(rows, rows), part(cols, cols), { transA: true, alpha: -1, c: sources[i](rows, cols) });
  });
  const rights = factorAll(g, complements, [middle, end], shifts);
  return lefts.map((left, i) => ({ size, left, right: rights[i], v: vs[i] }));
}

/**
 * Factors M + λI, symmetric positive definite, for one λ or several at once.
 *
 * @returns What {@linkcode solveSpd} takes, one for every shift.
 */
export function factorSpd(g: Graph, source: BlockSource, size: number, shifts: readonly Shift[]): readonly SpdFactor[] {
  return factorAll(g, shifts.map(() => source), [0, size], shifts);
}

/** Rows of a matrix, whole or as parts that belong to a factor's halves. */
type Rows = { readonly whole: Value } | { readonly upper: Rows; readonly lower: Rows };

function joined(g: Graph, rows: Rows): Value {
  return "whole" in rows ? rows.whole : concat(g, [joined(g, rows.upper), joined(g, rows.lower)], 0);
}

function halves(g: Graph, rows: Rows, middle: number, size: number): { readonly upper: Rows; readonly lower: Rows } {
  if (!("whole" in rows)) return rows;
  return {
    upper: { whole: slice(g, rows.whole, 0, 0, middle) },
    lower: { whole: slice(g, rows.whole, 0, middle, size) },
  };
}

/** L⁻¹·t. */
function forward(g: Graph, factor: SpdFactor, t: Rows): Rows {
  if ("r" in factor) return { whole: gemm(g, factor.r, joined(g, t)) };
  const { left, right, v, size } = factor;
  const { upper, lower } = halves(g, t, left.size, size);
  const y1 = { whole: joined(g, forward(g, left, upper)) };
  const rest = gemm(g, v, y1.whole, { transA: true, alpha: -1, c: joined(g, lower) });
  return { upper: y1, lower: forward(g, right, { whole: rest }) };
}

/** L⁻ᵀ·y. */
function backward(g: Graph, factor: SpdFactor, y: Rows): Rows {
  if ("r" in factor) return { whole: gemm(g, factor.r, joined(g, y), { transA: true }) };
  const { left, right, v, size } = factor;
  const { upper, lower } = halves(g, y, left.size, size);
  const x2 = { whole: joined(g, backward(g, right, lower)) };
  const rest = gemm(g, v, x2.whole, { alpha: -1, c: joined(g, upper) });
  return { upper: backward(g, left, { whole: rest }), lower: x2 };
}

/** (M + λI)⁻¹. Its sums have no differences of large terms, as the Schur complements come from the factor. */
function inverse(g: Graph, factor: SpdFactor): Value {
  if ("r" in factor) return gemm(g, factor.r, factor.r, { transA: true });
  const { left, right, v } = factor;
  const corner = inverse(g, right), e = joined(g, backward(g, left, { whole: v })); // M₁₁⁻¹·M₁₂
  const ec = gemm(g, e, corner);
  const upper = gemm(g, ec, e, { transB: true, c: inverse(g, left) });
  const above = neg(g, ec), below = transpose(g, above, [1, 0]);
  return concat(g, [concat(g, [upper, above], 1), concat(g, [below, corner], 1)], 0);
}

/** From this many columns per row on, an inverse is cheaper than substitution, which multiplies the diagonal blocks twice. */
export const WIDE = 1.3;

/** The same as {@linkcode solveSpd} for many right sides one after the other, all `(size, p)`. */
export function solverSpd(g: Graph, factor: SpdFactor, p: number): (t: Value) => Value {
  if (p < WIDE * factor.size) return (t) => solveSpd(g, factor, t);
  const inverted = inverse(g, factor);
  return (t) => gemm(g, inverted, t);
}

/** (M + λI)⁻¹·t for `t` `(size, p)`. */
export function solveSpd(g: Graph, factor: SpdFactor, t: Value): Value {
  return joined(g, backward(g, factor, forward(g, factor, { whole: t })));
}
