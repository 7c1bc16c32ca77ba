/** f64 twins of the roundings. */
import { storedBits } from "../../../../pipeline/stream/factors.ts";
import { groupsOf, unpackRows } from "../../../../pipeline/stream/nbits_layout.ts";
import type { NbitsFactors } from "../../../../pipeline/stream/stage.ts";
import { at, type Matrix, matrix, solve, transposed } from "../dbf_admm/twins.ts";

/** What factors stand for. */
export function restoredWeight(factors: NbitsFactors): Matrix {
  const { rows, cols, bits, group, scales, zeros } = factors;
  const groups = groupsOf(cols, group);
  const codes = unpackRows(factors.codes, rows * groups, group, storedBits(bits));
  return matrix(rows, cols, (i, j) => {
    const place = i * groups + Math.floor(j / group);
    return scales[place] * (codes[i * groups * group + j] - zeros[place]);
  });
}

/** A grid for the entries of one group. */
export interface TwinGrid {
  readonly scale: number;
  readonly zero: number;
}

/** To the nearest, halves to even, as ONNX's Round. */
export function roundEven(x: number): number {
  const low = Math.floor(x), rest = x - low;
  return rest < 0.5 || rest === 0.5 && low % 2 === 0 ? low : low + 1;
}

/** Nearest value of a grid. */
export function nearest(w: number, { scale, zero }: TwinGrid, bits: number): number {
  return scale * (Math.min(2 ** bits - 1, Math.max(0, roundEven(w / scale + zero))) - zero);
}

/** From the smallest to the largest entry, or around the one of largest magnitude. */
export function twinGrid(w: readonly number[], bits: number, symmetric: boolean, share = 1): TwinGrid {
  const low = share * Math.min(0, ...w), high = share * Math.max(0, ...w), most = 2 ** bits - 1;
  if (symmetric) {
    const largest = high > -low ? high : low;
    return { scale: largest === 0 ? 1 : -largest / 2 ** (bits - 1), zero: 2 ** (bits - 1) };
  }
  const scale = high === low ? 1 : (high - low) / most;
  return { scale, zero: Math.min(most, Math.max(0, roundEven(-low / scale))) };
}

/** Entries of group `index` of row `i`. */
export function groupOf(w: Matrix, i: number, index: number, group: number): number[] {
  return Array.from({ length: Math.min(group, w.cols - index * group) }, (_, j) => at(w, i, index * group + j));
}

/** Every group on its own grid. */
export function twinRounding(w: Matrix, group: number, bits: number, grid: (entries: number[]) => TwinGrid): Matrix {
  return matrix(
    w.rows,
    w.cols,
    (i, j) => nearest(at(w, i, j), grid(groupOf(w, i, Math.floor(j / group), group)), bits),
  );
}

/** Lower Cholesky factor. */
function cholesky(a: Matrix): Matrix {
  const n = a.rows, l = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = at(a, i, j);
      for (let k = 0; k < j; k++) sum -= l[i * n + k] * l[j * n + k];
      l[i * n + j] = i === j ? Math.sqrt(sum) : sum / l[j * n + j];
    }
  }
  return { rows: n, cols: n, data: l };
}

/**
 * GPTQ as its paper has it: the upper Cholesky factor U of the damped moment's inverse, and after each column the update
 * w_j −= (w_i − q_i) / U_ii · U_ij of all later ones. Ranges of a group are chosen when it is reached, among `clipSteps` + 1.
 */
export function twinGptq(
  w: Matrix,
  moment: Matrix,
  settings: { readonly group: number; readonly bits: number; readonly ridge: number; readonly clipSteps: number },
  importance: readonly number[],
): Matrix {
  const { group, bits, ridge, clipSteps } = settings;
  const n = w.cols;
  let mean = 0;
  for (let i = 0; i < n; i++) mean += at(moment, i, i) / n;
  const damped = matrix(n, n, (i, j) => at(moment, i, j) / mean + (i === j ? ridge : 0));
  const inverse = solve(damped, matrix(n, n, (i, j) => Number(i === j)));
  const U = transposed(cholesky(matrix(n, n, (i, j) => (at(inverse, i, j) + at(inverse, j, i)) / 2)));
  const left = Float64Array.from(w.data), result = new Float64Array(w.data.length);
  for (let row = 0; row < w.rows; row++) {
    let grid: TwinGrid = { scale: 1, zero: 0 };
    for (let i = 0; i < n; i++) {
      if (i % group === 0) {
        const entries = Array.from({ length: Math.min(group, n - i) }, (_, j) => left[row * n + i + j]);
        let least = Infinity;
        for (let step = 0; step <= clipSteps; step++) {
          const own = twinGrid(entries, bits, false, step === 0 ? 1 : 1 - 0.6 * step / clipSteps);
          const cost = entries.reduce((sum, x, j) => sum + importance[i + j] * (x - nearest(x, own, bits)) ** 2, 0);
          if (cost < least) [least, grid] = [cost, own];
        }
      }
      const value = nearest(left[row * n + i], grid, bits);
      result[row * n + i] = value;
      const error = (left[row * n + i] - value) / at(U, i, i);
      for (let j = i + 1; j < n; j++) left[row * n + j] -= error * at(U, i, j);
    }
  }
  return { rows: w.rows, cols: n, data: result };
}

/** Σ_rows (w − ŵ)·H·(w − ŵ)ᵀ: what the error does to outputs. */
export function outputError(w: Matrix, restored: Matrix, moment: Matrix): number {
  let total = 0;
  for (let row = 0; row < w.rows; row++) {
    for (let i = 0; i < w.cols; i++) {
      for (let j = 0; j < w.cols; j++) {
        total += (at(w, row, i) - at(restored, row, i)) * at(moment, i, j) * (at(w, row, j) - at(restored, row, j));
      }
    }
  }
  return total;
}

/** Share of entries that differ by more than `tolerance`. */
export function differingShare(x: Matrix, y: Matrix, tolerance: number): number {
  return x.data.filter((value, place) => Math.abs(value - y.data[place]) > tolerance).length / x.data.length;
}

/** HQQ's grid of one group: half-quadratic steps over errors, codes, zero point and scale, then the better whole zero point. */
export function twinHqq(
  w: readonly number[],
  bits: number,
  settings: {
    readonly norm: number;
    readonly penalty: number;
    readonly growth: number;
    readonly iterations: number;
  },
): TwinGrid {
  const { norm, penalty, growth, iterations } = settings;
  const most = 2 ** bits - 1, n = w.length;
  const code = (x: number, { scale, zero }: TwinGrid) => Math.min(most, Math.max(0, roundEven(x / scale + zero)));
  const shrink = (x: number, beta: number) =>
    Math.sign(x) * Math.max(0, Math.abs(x) - norm * Math.abs(x) ** (norm - 1) / beta);
  /** Codes, and the weight without the errors that are let be. */
  const split = (grid: TwinGrid, beta: number) => {
    const codes = w.map((x) => code(x, grid));
    const target = w.map((x, j) => {
      const error = (x - grid.scale * (codes[j] - grid.zero)) / grid.scale;
      return x - grid.scale * (error === 0 ? 0 : shrink(error, beta));
    });
    return { codes, target };
  };
  const refit = (target: number[], codes: number[], { scale, zero }: TwinGrid): TwinGrid => {
    let top = 0, bottom = 0;
    codes.forEach((q, j) => {
      top += target[j] * (q - zero);
      bottom += (q - zero) ** 2;
    });
    return { scale: bottom === 0 || top === 0 ? scale : top / bottom, zero };
  };
  let grid = twinGrid(w, bits, false);
  for (let step = 0; step < iterations; step++) {
    const { codes, target } = split(grid, penalty * growth ** step);
    const zero = codes.reduce((sum, q, j) => sum + q - target[j] / grid.scale, 0) / n;
    grid = refit(target, codes, { scale: grid.scale, zero: Math.min(most, Math.max(0, zero)) });
  }
  const polished = [Math.floor(grid.zero), Math.ceil(grid.zero)].map((zero) => {
    let own: TwinGrid = { scale: grid.scale, zero };
    for (let step = 0; step < 3; step++) {
      const { codes, target } = split(own, penalty * growth ** iterations);
      own = refit(target, codes, own);
    }
    const cost = w.reduce((sum, x) => sum + Math.abs(x - own.scale * (code(x, own) - own.zero)) ** norm, 0);
    return { own, cost };
  });
  return polished[1].cost < polished[0].cost ? polished[1].own : polished[0].own;
}
