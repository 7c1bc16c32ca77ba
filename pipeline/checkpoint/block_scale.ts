/**
 * Scales beside 8-bit weights: `NAME_scale_inv` (or `NAME_scale`) multiplies blocks of the weight NAME.
 *
 * @module
 */

/** Blocks of a matrix that share a scale. */
export interface BlockScale {
  /** Rows and columns of a block. */
  readonly blockRows: number;
  readonly blockCols: number;
  /** `(ceil(rows/blockRows), ceil(cols/blockCols))`, row-major. */
  readonly scales: Float32Array;
}

/** Side of a block where config.json names none. */
export const DEFAULT_SCALE_BLOCK: readonly [number, number] = [128, 128];

/**
 * Block size that a scale of shape `scaleShape` implies for a weight `(rows, cols)`: one number for all, one a row, or
 * one for each block of `block`.
 *
 * @returns `undefined` when the shapes do not fit.
 */
export function scaleBlock(
  rows: number,
  cols: number,
  scaleShape: readonly number[],
  block: readonly [number, number],
): readonly [number, number] | undefined {
  const [down, across] = [Math.ceil(rows / block[0]), Math.ceil(cols / block[1])];
  if (scaleShape.length === 2 && scaleShape[0] === down && scaleShape[1] === across) return block;
  if (scaleShape.every((size) => size === 1)) return [rows, cols];
  if (scaleShape[0] === rows && scaleShape.slice(1).every((size) => size === 1)) return [1, cols];
  return undefined;
}

/**
 * Multiplies rows of a weight by their scales, in place.
 *
 * @param values Rows `[start, start + values.length/cols)`, row-major.
 * @param start Index of the first row.
 * @param cols Columns of the weight.
 */
export function applyBlockScale(values: Float32Array, start: number, cols: number, scale: BlockScale): void {
  const across = Math.ceil(cols / scale.blockCols);
  // W_ij = q_ij · s[i div blockRows, j div blockCols]
  for (let offset = 0, row = start; offset < values.length; offset += cols, row++) {
    const base = Math.floor(row / scale.blockRows) * across;
    for (let block = 0, col = 0; block < across; block++) {
      const factor = scale.scales[base + block];
      for (const end = Math.min(cols, (block + 1) * scale.blockCols); col < end; col++) values[offset + col] *= factor;
    }
  }
}
