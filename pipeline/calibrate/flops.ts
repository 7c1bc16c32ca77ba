/**
 * Operations of the calibrated stages on a whole model, for plans.
 *
 * @module
 */
import type { RunShape } from "../stream/stage.ts";

/**
 * Useful operations of an importance pass: 2 a weight and token forward; with a gradient the same again twice in the backward pass,
 * which redoes the block, and the head forward and backward.
 */
export function importanceFlops(
  { model, calibration: { windows, tokens } }: RunShape,
  { backward }: { readonly backward: boolean },
): number {
  const weights = model.blocks.reduce(
    (sum, { linears }) => sum + linears.reduce((all, { rows, cols }) => all + rows * cols, 0),
    0,
  );
  const head = model.vocabularySize * model.hiddenSize;
  return windows * tokens * (backward ? 6 * weights + 4 * head : 2 * weights);
}
