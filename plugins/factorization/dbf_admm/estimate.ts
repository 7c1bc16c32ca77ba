/**
 * Bytes and operations of a factorization before it runs.
 *
 * @module
 */
import type { LayerShape, StageEstimate } from "../../../pipeline/stream/stage.ts";
import type { Settings } from "./options.ts";

/**
 * Peak bytes (the largest of reading, a half step and polishing) and useful operations: per half step a Gram matrix, a cross
 * product, a Cholesky factor for each of the first two inner steps and a solve an inner step; then what polishing needs.
 * Newton–Schulz steps and what blocks compute twice do not count.
 */
export function estimate(layer: LayerShape & { readonly rank: number }, settings: Settings): StageEstimate {
  const { rows: n, cols: m, rank: k } = layer;
  const sides = k * (n + m), largest = k * Math.max(n, m);
  const reading = 4 * n * m;
  const step = n * m + 2 * sides + 5 * largest + 5 * k * k;
  const polishing = 3 * n * m + (settings.latents ? 2 : 1) * sides + 3 * largest + 5 * k * k;
  // Multiply and add count as two; a symmetric product and a Cholesky factor count once per pair of equal entries.
  const half = (p: number, q: number) =>
    k * k * q + 2 * k * p * q + Math.min(2, settings.innerSteps) * k ** 3 / 3 + settings.innerSteps * 2 * k * k * p;
  const descent = (p: number, q: number) => k * k * q + 2 * k * p * q + 2 * k * k * p;
  const refit = 4 * n * m * k + k * k * (n + m) + k ** 3 / 3, error = 2 * n * m * k;
  const rounds = settings.sweeps + Math.sign(settings.pairPasses);
  const flops = settings.iterations * (half(n, m) + half(m, n)) + rounds * (descent(n, m) + descent(m, n)) +
    (rounds + settings.refits) * refit + (rounds + 2) * error;
  return {
    peakBytes: 4 * Math.max(reading, step, polishing),
    flops,
  };
}
