/**
 * Learning-rate schedule.
 *
 * @module
 */

/** Smallest factor that the schedule falls to. */
const LEAST_FACTOR = 1e-3;

/**
 * Factor on the learning rate at a step: linear warmup, then half a cosine (Loshchilov & Hutter, arXiv 1608.03983).
 *
 * @param step Counted from 0.
 * @param steps All steps of the run.
 * @param warmup Share of the steps that warm up. Default 0.05.
 * @returns A number in [0.001, 1].
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { cosineFactor } from "./schedule.ts";
 *
 * assertEquals(cosineFactor(50, 100), 0.5);
 * assertEquals(cosineFactor(100, 100), 0.001);
 * ```
 */
export function cosineFactor(step: number, steps: number, warmup = 0.05): number {
  const rise = Math.min(1, (step + 1) / Math.max(1, steps * warmup));
  return Math.max(LEAST_FACTOR, rise * (0.5 + 0.5 * Math.cos(Math.PI * step / steps)));
}
