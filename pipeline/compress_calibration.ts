/**
 * The calibration windows of a run.
 *
 * @module
 */
import { readTokens } from "./calibrate/text.ts";
import { sampleWindows } from "./calibrate/windows.ts";
import { loadTokenizer } from "./evaluate/tokenizer.ts";
import type { ModelDescription } from "./model/types.ts";
import type { Recipe } from "./recipe/schema.ts";

/**
 * Reads and samples the windows that a recipe asks for; none where it has no calibration.
 *
 * @throws {Error} when the text cannot be read or is too short.
 */
export async function loadCalibration(recipe: Recipe, model: ModelDescription): Promise<readonly Int32Array[]> {
  if (recipe.calibration === undefined) return [];
  const { source, sequences, length } = recipe.calibration;
  const ids = await readTokens(source, {
    vocabularySize: model.vocabularySize,
    tokenizer: () => loadTokenizer(recipe.model),
  });
  return sampleWindows(ids, length, sequences, recipe.seed);
}
