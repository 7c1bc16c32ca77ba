/**
 * Operations of the calibrated stages on a whole model, for plans.
 *
 * @module
 */
import type { ModelDescription } from "../model/types.ts";
import type { RunShape } from "../stream/stage.ts";
import { type TrainingLength, trainingSteps, windowsPerBatch } from "./batch_size.ts";
import { teacherWindows } from "./teacher.ts";

function weightsOf({ blocks }: ModelDescription): number {
  return blocks.reduce((sum, { linears }) => sum + linears.reduce((all, { rows, cols }) => all + rows * cols, 0), 0);
}

/**
 * Useful operations of an importance pass: 2 a weight and token forward; with a gradient the same again twice in the backward pass,
 * which redoes the block, and the head forward and backward.
 */
export function importanceFlops(
  { model, calibration: { windows, tokens } }: RunShape,
  { backward }: { readonly backward: boolean },
): number {
  const weights = weightsOf(model);
  const head = model.vocabularySize * model.hiddenSize;
  return windows * tokens * (backward ? 6 * weights + 4 * head : 2 * weights);
}

/**
 * Useful operations of a distillation: 8 a sign and token (forward, the same again in the backward pass, gradients of inputs and
 * of signs), and 2 a weight and token of the teacher, which sees every window once where all of its hidden states fit, and
 * the windows of every step otherwise.
 */
export function distillationFlops(
  { model, layers, calibration: { windows, tokens } }: RunShape,
  { length, batchTokens, teacherBytes }: {
    readonly length: TrainingLength;
    readonly batchTokens: number;
    readonly teacherBytes: number;
  },
): number {
  if (windows === 0) return 0;
  const batch = windowsPerBatch(batchTokens, windows, tokens, 2);
  const trained = trainingSteps(length, windows, batch, tokens) * batch * tokens;
  const fits = teacherWindows({ windows, tokens, features: model.hiddenSize }, batch, teacherBytes) === windows;
  const taught = trained > 0 && fits ? windows * tokens : trained;
  const signs = layers.reduce((sum, { rank, rows, cols }) => sum + rank * (rows + cols), 0);
  return 8 * signs * trained + 2 * weightsOf(model) * taught;
}
