/**
 * Bytes and operations of a factorization before it runs.
 *
 * @module
 */
import type { LayerShape, StageEstimate } from "../../../pipeline/stream/stage.ts";
import type { Settings } from "./options.ts";

/**
 * Peak bytes (the larger of reading, an outer step and polishing) and useful operations: per half step one Gram matrix,
 * one cross product, an inverse of 4/3·k³ multiply–adds for each of the first two inner steps, and one product an inner step.
 */
export function estimate(layer: LayerShape & { readonly rank: number }, settings: Settings): StageEstimate {
  const { rows: n, cols: m, rank: k } = layer;
  const sides = k * (n + m), largest = k * Math.max(n, m);
  const reading = 4 * n * m;
  const step = n * m + 2 * sides + 5 * largest + 5 * k * k;
  const polishing = 3 * n * m + (settings.latents ? 2 : 1) * sides + 3 * largest + 5 * k * k;
  const half = (p: number, q: number) =>
    k * k * q + k * p * q + Math.min(2, settings.innerSteps) * 4 / 3 * k ** 3 + settings.innerSteps * k * k * p;
  const sweep = (p: number, q: number) => k * k * q + k * p * q + k * k * p;
  const outer = half(n, m) + half(m, n);
  const sweeps = sweep(n, m) + sweep(m, n) + 2 * n * m * k + k * k * (n + m) + 4 / 3 * k ** 3;
  return {
    peakBytes: 4 * Math.max(reading, step, polishing),
    flops: 2 * (settings.iterations * outer + settings.sweeps * sweeps),
  };
}
