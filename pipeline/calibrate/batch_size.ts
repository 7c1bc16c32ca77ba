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
  return Math.min(windows.length, Math.max(least, Math.round(tokens / windows[0].length)));
}
