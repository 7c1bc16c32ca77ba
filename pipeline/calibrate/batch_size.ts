/**
 * Windows a run, from tokens a run.
 *
 * @module
 */

/**
 * Whole windows that make up about `tokens` tokens, at least `least` of them where there are that many.
 *
 * @param tokens Tokens wanted at once.
 * @param windows Windows of one length.
 * @throws {RangeError} when there are no windows.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { batchWindows } from "./batch_size.ts";
 *
 * assertEquals(batchWindows(1024, Array.from({ length: 9 }, () => new Int32Array(256)), "importance"), 4);
 * ```
 */
export function batchWindows(tokens: number, windows: readonly Int32Array[], stage: string, least = 1): number {
  if (windows.length === 0) {
    throw new RangeError(`Cannot run ${stage} as there are 0 calibration windows: give text with --calibration`);
  }
  return windowsPerBatch(tokens, windows.length, windows[0].length, least);
}

/** As {@linkcode batchWindows}, of windows that need not be there: `windows` of them, of `length` tokens. */
export function windowsPerBatch(tokens: number, windows: number, length: number, least = 1): number {
  return Math.min(windows, Math.max(least, Math.round(tokens / length)));
}

/** How long a training may go. */
export interface TrainingLength {
  /** Most passes over the windows, which bounds overfitting. */
  readonly epochs: number;
  /** Most tokens, repetitions counted, which bounds time. */
  readonly tokens: number;
}

/**
 * Steps of a training: as many as both bounds allow, one at least; 0 where a bound is 0.
 *
 * @param windows How many there are.
 * @param batch Windows a step.
 * @param length Tokens a window.
 */
export function trainingSteps(
  { epochs, tokens }: TrainingLength,
  windows: number,
  batch: number,
  length: number,
): number {
  const most = Math.min(epochs * windows / batch, tokens / (batch * length));
  return most > 0 ? Math.max(1, Math.floor(most)) : 0;
}
