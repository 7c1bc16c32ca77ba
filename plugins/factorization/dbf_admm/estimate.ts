/**
 * Bytes and operations of a factorization before it runs.
 *
 * @module
 */
import type { LayerShape, StageEstimate } from "../../../pipeline/stream/stage.ts";
import type { Settings } from "./options.ts";
import { WIDE } from "./spd_solve.ts";
import { LEAN_ELEMENTS, MOST_KEPT_ELEMENTS } from "./sessions.ts";

/** Graphs, sessions and the space between buffers, whatever the size. */
export const FIXED_BYTES = 60_000_000;

/**
 * Peak bytes (the largest of reading, a half step and polishing) and useful operations: per half step a Gram matrix, a cross
 * product, a Cholesky factor for each of the first two inner steps and a solve an inner step; then what polishing needs.
 * Newton–Schulz steps and what blocks compute twice do not count.
 */
export function estimate(layer: LayerShape & { readonly rank: number }, settings: Settings): StageEstimate {
  const { rows: n, cols: m, rank: k } = layer;
  const sides = k * (n + m), largest = k * Math.max(n, m), lean = n * m > LEAN_ELEMENTS;
  // Panels, their concatenation, and what JavaScript read and has not collected yet.
  const reading = 4.5 * n * m;
  // Small layers share sessions, so all of them keep what they worked in, twice: ONNX Runtime plans memory anew on a second run.
  const shared = n * m <= MOST_KEPT_ELEMENTS;
  // Unless lean, both halves' sessions keep what they worked in, explicit inverses and what they are made of too.
  const step = lean
    ? n * m + 2.5 * sides + 7.5 * largest + 2.5 * k * k
    : n * m + (shared ? 20 * sides + 10.5 * k * k : 11 * sides + (Math.max(n, m) < WIDE * k ? 2 : 12) * k * k);
  const polishing = lean || shared ? 4 * n * m + 4 * sides + 4 * largest + 4 * k * k : 9 * n * m + 5.5 * sides;
  // Multiply and add count as two; a symmetric product and a Cholesky factor count once per pair of equal entries.
  const half = (p: number, q: number) =>
    k * k * q + 2 * k * p * q + Math.min(2, settings.innerSteps) * k ** 3 / 3 + settings.innerSteps * 2 * k * k * p;
  const descent = (p: number, q: number) => k * k * q + 2 * k * p * q + 2 * k * k * p;
  const refit = 4 * n * m * k + k * k * (n + m) + k ** 3 / 3, error = 2 * n * m * k;
  const rounds = settings.sweeps + Math.sign(settings.pairPasses);
  const flops = settings.iterations * (half(n, m) + half(m, n)) + rounds * (descent(n, m) + descent(m, n)) +
    (rounds + settings.refits) * refit + (rounds + 2) * error;
  return {
    peakBytes: 4 * (shared ? step + 2.7 * polishing : Math.max(reading, step, polishing)) + FIXED_BYTES,
    flops,
  };
}
