/**
 * Learning rates of a distillation where none are given.
 *
 * @module
 */
import type { LayerJob } from "../stream/stage.ts";
import type { FactorRates } from "./block_state.ts";

/** Steps that {@linkcode AT_ONE_BIT} was measured at. */
const STEPS = 1000;

/** Rate of latents at 1 bit in that many steps: from latents of a factorization, and from latents of one magnitude. */
const AT_ONE_BIT = { factorized: 1.5e-2, equal: 9.2e-3 } as const;

/** Powers of the number of steps: longer trainings want lower rates, the more so where all latents begin at one magnitude. */
const BY_STEPS = { factorized: -0.4, equal: -0.5 } as const;

/** Power of the bits a weight: more bits want lower rates. */
const BY_BITS = -0.85;

/** Rates of scales, in rates of latents. */
const SCALES = 0.5;

/** Shorter trainings get the rates of this many steps: nothing shorter was measured to want higher ones. */
const FEWEST_STEPS = 128;

/** Where latents begin: as the factorization left them, or all at one magnitude, as a finished run's signs do. */
export type LatentStart = keyof typeof AT_ONE_BIT;

/** Sign bits a weight of layers that have a middle dimension, together; 1 where none has. */
function bitsOf(jobs: readonly Pick<LayerJob, "rows" | "cols" | "rank">[]): number {
  let signs = 0, weights = 0;
  for (const { rows, cols, rank } of jobs) {
    signs += rank * (rows + cols);
    if (rank > 0) weights += rows * cols;
  }
  return weights === 0 ? 1 : signs / weights;
}

/**
 * Rates for the length of a training and the bits of its layers, before the schedule. Latents get
 * `1.5e-2 · (steps/1000)^−0.4 · bits^−0.85` after a factorization and `9.2e-3 · (steps/1000)^−0.5 · bits^−0.85` where all begin at
 * one magnitude, for 128 steps at least; scales half of that. The measurements are in plugins/reconstruction/README.md.
 *
 * @example
 * ```ts
 * import { assertAlmostEquals } from "@std/assert";
 * import { defaultRates } from "./default_rates.ts";
 *
 * const job = { rows: 64, cols: 64, rank: 32 }; // 1 bit a weight
 * assertAlmostEquals(defaultRates([job], 1000, "factorized").signs, 1.5e-2);
 * assertAlmostEquals(defaultRates([{ ...job, rank: 64 }], 1000, "factorized").signs, 8.32e-3, 1e-5);
 * ```
 */
export function defaultRates(
  jobs: readonly Pick<LayerJob, "rows" | "cols" | "rank">[],
  steps: number,
  start: LatentStart,
): Required<Pick<FactorRates, "signs" | "scales">> {
  const length = (Math.max(FEWEST_STEPS, steps) / STEPS) ** BY_STEPS[start];
  const signs = AT_ONE_BIT[start] * length * bitsOf(jobs) ** BY_BITS;
  return { signs, scales: SCALES * signs };
}
