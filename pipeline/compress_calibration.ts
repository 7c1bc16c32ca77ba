/**
 * The calibration text of a run, and how much of its own the model adds.
 *
 * @module
 */
import { readTokens } from "./calibrate/text.ts";
import { sampleWindows } from "./calibrate/windows.ts";
import { loadTokenizer } from "./evaluate/tokenizer.ts";
import type { ModelDescription } from "./model/types.ts";
import type { Recipe } from "./recipe/schema.ts";

/** `calibration.source` that stands for the model's own text. */
export const SELF_CALIBRATION = "self";

/** Windows of the model's own text for each of the calibration text with the effort `best`. */
const BEST_GENERATED = 2;

/** Windows of the model's own text beside `windows` of a text, where the recipe says nothing. */
export function generatedByDefault(effort: Recipe["effort"], windows: number): number {
  return effort === "best" ? BEST_GENERATED * windows : 0;
}

/** What a recipe asks for. */
export interface CalibrationRequest {
  /** Windows of the given text. */
  readonly text: readonly Int32Array[];
  /** Windows of the model's own text, which is yet to be made. */
  readonly own: number;
}

/**
 * Reads and samples the windows of the text that a recipe names; none where it has no calibration.
 *
 * @throws {Error} when the text cannot be read or is too short.
 */
export async function readCalibration(recipe: Recipe, model: ModelDescription): Promise<CalibrationRequest> {
  if (recipe.calibration === undefined) return { text: [], own: 0 };
  const { source, sequences, generated, length } = recipe.calibration;
  if (source === SELF_CALIBRATION) return { text: [], own: sequences + (generated ?? 0) };
  const ids = await readTokens(source, {
    vocabularySize: model.vocabularySize,
    tokenizer: () => loadTokenizer(recipe.model),
  });
  const text = sampleWindows(ids, length, sequences, recipe.seed);
  return { text, own: generated ?? generatedByDefault(recipe.effort, text.length) };
}
