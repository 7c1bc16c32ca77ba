/**
 * Windows of equal length out of a stream of token ids.
 *
 * @module
 */
import { seededRandom } from "../evaluate/sample.ts";

/**
 * Consecutive windows that do not overlap; a rest shorter than a window is left out, unless it is all there is.
 *
 * @param ids The stream, `(n,)`.
 * @param length Tokens a window.
 * @returns Views into `ids`.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { consecutiveWindows } from "./windows.ts";
 *
 * const windows = consecutiveWindows(Int32Array.of(1, 2, 3, 4, 5), 2);
 * assertEquals(windows.map((window) => [...window]), [[1, 2], [3, 4]]);
 * ```
 */
export function consecutiveWindows(ids: Int32Array, length: number): Int32Array[] {
  if (!Number.isInteger(length) || length < 1) {
    throw new RangeError(`Cannot cut windows of ${length} tokens: it must be a whole number, 1 or more`);
  }
  if (ids.length < length) return [ids];
  return Array.from(
    { length: Math.floor(ids.length / length) },
    (_, index) => ids.subarray(index * length, (index + 1) * length),
  );
}

/**
 * A seeded sample of the consecutive windows, without repetition, in the text's order.
 *
 * @param ids The stream, `(n,)`.
 * @param length Tokens a window.
 * @param count Windows wanted; all there are when fewer.
 * @param seed The same seed gives the same windows.
 * @throws {RangeError} when the stream is shorter than one window.
 */
export function sampleWindows(ids: Int32Array, length: number, count: number, seed: number): Int32Array[] {
  if (ids.length < length) {
    throw new RangeError(
      `Cannot sample windows of ${length} tokens: the text has ${ids.length}; give more text, or a shorter context`,
    );
  }
  const windows = consecutiveWindows(ids, length);
  if (count >= windows.length) return windows;
  const random = seededRandom(seed);
  const order = windows.map((_, index) => index);
  // The first `count` places of a Fisher–Yates shuffle.
  for (let place = 0; place < count; place++) {
    const other = place + Math.floor(random() * (order.length - place));
    [order[place], order[other]] = [order[other], order[place]];
  }
  return order.slice(0, count).sort((a, b) => a - b).map((index) => windows[index]);
}
