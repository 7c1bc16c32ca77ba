/**
 * The diagonal weighting of the objective: W̃ = D_o^½ W D_i^½.
 *
 * @module
 */
import type { LayerImportance } from "../../../pipeline/stream/stage.ts";

/** Added to the square roots after they were normalised, so that unused features keep a well-posed scale. */
const FLOOR = 1e-8;

/** Factors of the rows and columns of W in the objective. */
export interface Weighting {
  /** D_o^½ over its mean, plus 1e-8, `(rows,)`. */
  readonly row: Float32Array;
  /** D_i^½ over its mean, plus 1e-8, `(cols,)`. */
  readonly col: Float32Array;
}

/** √d over its mean plus the floor; a diagonal that is zero everywhere counts as one everywhere. */
function normalizedRoot(diagonal: Float32Array, length: number, side: string, name: string): Float32Array {
  if (diagonal.length !== length) {
    throw new RangeError(
      `Cannot weight "${name}" by its ${side} importance: it has ${diagonal.length} entries, the weight has ${length}`,
    );
  }
  const root = new Float64Array(length);
  let sum = 0;
  for (let i = 0; i < length; i++) {
    const value = diagonal[i];
    if (!(value >= 0) || value === Infinity) {
      throw new RangeError(
        `Cannot weight "${name}" by its ${side} importance: entry ${i} is ${value}, it must be finite and ≥ 0`,
      );
    }
    sum += root[i] = Math.sqrt(value);
  }
  const mean = sum / length;
  if (mean === 0) return new Float32Array(length).fill(1);
  return Float32Array.from(root, (value) => value / mean + FLOOR);
}

/**
 * Square roots of both importances, each over its mean.
 *
 * @param importance `undefined` counts every row and column equally.
 * @param name The weight's name, for errors.
 * @throws {RangeError} on a wrong length, a negative or a non-finite entry.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { weightingOf } from "./weighting.ts";
 *
 * const importance = { input: Float32Array.of(1, 9), output: Float32Array.of(4) };
 * assertEquals(weightingOf(importance, 1, 2, "w").col[0], Math.fround(0.5 + 1e-8));
 * ```
 */
export function weightingOf(
  importance: LayerImportance | undefined,
  rows: number,
  cols: number,
  name: string,
): Weighting {
  if (importance === undefined) return { row: new Float32Array(rows).fill(1), col: new Float32Array(cols).fill(1) };
  return {
    row: normalizedRoot(importance.output, rows, "output", name),
    col: normalizedRoot(importance.input, cols, "input", name),
  };
}
