/** f64 twins and helpers of the factorizer's tests. */
import type { DbfFactors, SignMatrix } from "../../../../pipeline/stream/stage.ts";

/** Row-major f64 matrix. */
export interface Matrix {
  readonly rows: number;
  readonly cols: number;
  readonly data: Float64Array;
}

/** Deterministic numbers, roughly normal. */
export function normals(seed: number): () => number {
  let state = seed >>> 0;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

/** A matrix of normals. */
export function randomMatrix(rows: number, cols: number, seed: number): Matrix {
  const next = normals(seed);
  return { rows, cols, data: Float64Array.from({ length: rows * cols }, next) };
}

/** Matrix whose entry (i, j) is `f(i, j)`. */
export function matrix(rows: number, cols: number, f: (i: number, j: number) => number): Matrix {
  return {
    rows,
    cols,
    data: Float64Array.from({ length: rows * cols }, (_, at) => f(Math.floor(at / cols), at % cols)),
  };
}

/** Entry (i, j). */
export const at = (x: Matrix, i: number, j: number): number => x.data[i * x.cols + j];

/** x·y. */
export function product(x: Matrix, y: Matrix): Matrix {
  return matrix(x.rows, y.cols, (i, j) => {
    let sum = 0;
    for (let c = 0; c < x.cols; c++) sum += at(x, i, c) * at(y, c, j);
    return sum;
  });
}

/** xᵀ. */
export const transposed = (x: Matrix): Matrix => matrix(x.cols, x.rows, (i, j) => at(x, j, i));

/** Solves m·x = t by elimination with pivots. */
export function solve(m: Matrix, t: Matrix): Matrix {
  const n = m.rows, a = Float64Array.from(m.data), x = Float64Array.from(t.data), p = t.cols;
  for (let c = 0; c < n; c++) {
    let pivot = c;
    for (let r = c + 1; r < n; r++) if (Math.abs(a[r * n + c]) > Math.abs(a[pivot * n + c])) pivot = r;
    for (let j = 0; j < n; j++) [a[c * n + j], a[pivot * n + j]] = [a[pivot * n + j], a[c * n + j]];
    for (let j = 0; j < p; j++) [x[c * p + j], x[pivot * p + j]] = [x[pivot * p + j], x[c * p + j]];
    for (let r = 0; r < n; r++) {
      const factor = r === c ? 0 : a[r * n + c] / a[c * n + c];
      if (factor === 0) continue;
      for (let j = c; j < n; j++) a[r * n + j] -= factor * a[c * n + j];
      for (let j = 0; j < p; j++) x[r * p + j] -= factor * x[c * p + j];
    }
  }
  return matrix(n, p, (i, j) => x[i * p + j] / a[i * n + i]);
}

/** Largest |x − y|. */
export function largestDifference(x: ArrayLike<number>, y: ArrayLike<number>): number {
  let largest = 0;
  for (let i = 0; i < x.length; i++) largest = Math.max(largest, Math.abs(x[i] - y[i]));
  return largest;
}

/** Sign (r, c) of a packed matrix. */
export function signAt(signs: SignMatrix, r: number, c: number): number {
  const word = signs.words[r * Math.ceil(signs.cols / 32) + (c >> 5)];
  return (word >>> (c & 31)) & 1 ? 1 : -1;
}

/** diag(a)·A·diag(mid)·B·diag(b) in f64. */
export function reconstruct(f: DbfFactors): Matrix {
  const a = matrix(f.A.rows, f.rank, (i, c) => signAt(f.A, i, c) * f.a[i] * f.mid[c]);
  const b = matrix(f.rank, f.B.cols, (c, j) => signAt(f.B, c, j) * f.b[j]);
  return product(a, b);
}

/** Σ row²(w − ŵ)²col² / Σ row² w² col². */
export function weightedError(w: Matrix, estimate: Matrix, row?: ArrayLike<number>, col?: ArrayLike<number>): number {
  let residual = 0, total = 0;
  for (let i = 0; i < w.rows; i++) {
    for (let j = 0; j < w.cols; j++) {
      const weight = (row?.[i] ?? 1) * (col?.[j] ?? 1);
      residual += weight * (at(w, i, j) - at(estimate, i, j)) ** 2;
      total += weight * at(w, i, j) ** 2;
    }
  }
  return residual / total;
}
