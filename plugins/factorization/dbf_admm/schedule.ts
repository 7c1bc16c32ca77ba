/**
 * How penalties move over the outer steps.
 *
 * @module
 */
import { SCHEDULE_COLUMNS } from "./admm_step.ts";
import type { Settings } from "./options.ts";

/** Scalars of one outer step. */
export interface Penalties {
  /** ρ of the first inner step; later ones use 1. */
  readonly rho: number;
  /** Ridge on the Gram matrix, whose diagonal is one. */
  readonly ridge: number;
  /** Share of the continuous solution in the fixed factor: falls to nothing at 80 % of the steps. */
  readonly soft: number;
}

/** Penalties of outer step `t` of `settings.iterations`: both ends are reached three steps before the last. */
export function penaltiesAt(t: number, settings: Settings): Penalties {
  const { iterations, rhoStart, rhoEnd, rhoPower, ridgeStart, ridgeEnd, ridgePower, softStart, softPower } = settings;
  const f = Math.min(1, t / Math.max(1, iterations - 3));
  return {
    rho: rhoStart + (rhoEnd - rhoStart) * f ** rhoPower,
    ridge: ridgeStart + (ridgeEnd - ridgeStart) * f ** ridgePower,
    soft: softStart * Math.max(0, 1 - f / 0.8) ** softPower,
  };
}

/** The penalties of all steps, `(iterations, 3)` row-major, with columns as `SCHEDULE_COLUMNS` of admm_step.ts. */
export function scheduleTable(settings: Settings): Float32Array {
  return Float32Array.from(
    Array.from({ length: settings.iterations }, (_, t) => {
      const penalties = penaltiesAt(t, settings);
      return SCHEDULE_COLUMNS.map((name) => penalties[name]);
    }).flat(),
  );
}

/** Least ρ + ridge of all steps: below every eigenvalue that is inverted. */
export function lowestPenalty(settings: Settings): number {
  let lowest = Infinity;
  for (let t = 0; t < settings.iterations; t++) {
    const { rho, ridge } = penaltiesAt(t, settings);
    lowest = Math.min(lowest, rho + ridge, 1 + ridge);
  }
  return lowest;
}
