/**
 * Windows of equal length out of a stream of token ids.
 *
 * @module
 */
import { sha256 } from "../artefact/durable.ts";
import { seededRandom } from "../evaluate/sample.ts";

/** The calibration windows of a run, all of one length. */
export interface CalibrationWindows {
  /** Of the given text. */
  readonly text: readonly Int32Array[];
  /** Of the model's own text. */
  readonly own: readonly Int32Array[];
}

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
 * `wanted` of the numbers 0 … `count` − 1, evenly spread from 0 on; all of them where there are no more.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { evenlyChosen } from "./windows.ts";
 *
 * assertEquals(evenlyChosen(7, 3), [0, 2, 4]);
 * assertEquals(evenlyChosen(2, 3), [0, 1]);
 * ```
 */
export function evenlyChosen(count: number, wanted: number): number[] {
  const chosen = Math.min(count, wanted);
  return Array.from({ length: chosen }, (_, index) => Math.floor(index * count / chosen));
}

/** Whole windows of `length` tokens that make up at most `tokens`, one at least where there is one. */
export function windowsWithin(windows: number, length: number, tokens: number): number {
  return Math.min(windows, Math.max(1, Math.floor(tokens / length)));
}

/**
 * The windows of a stage that is given at most `tokens` tokens, one window at least: of the text, evenly chosen; of the model's
 * own text only as many, evenly chosen too, as the text has too few. What a stage measures is then of real text as far as
 * there is some, and does not depend on how much was generated beside it.
 *
 * @returns In the order of the text, then of the own text.
 */
export function chooseWindows({ text, own }: CalibrationWindows, tokens = Infinity): readonly Int32Array[] {
  const all = [...text, ...own];
  if (all.length === 0) return all;
  const wanted = windowsWithin(all.length, all[0].length, tokens);
  return [
    ...evenlyChosen(text.length, wanted).map((index) => text[index]),
    ...evenlyChosen(own.length, Math.max(0, wanted - text.length)).map((index) => own[index]),
  ];
}

/** SHA-256 of windows, in hexadecimal; `null` without any. */
export function hashWindows(windows: readonly Int32Array[]): string | null {
  if (windows.length === 0) return null;
  return sha256(windows.map((ids) => sha256(new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength))).join());
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
