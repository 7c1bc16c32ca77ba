/**
 * Options of the factorization and what each preset of effort means.
 *
 * @module
 */
import * as v from "valibot";

const count = (most: number) => v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(most)));
const fraction = v.optional(v.pipe(v.number(), v.finite(), v.gtValue(0)));

/** What users may set; what they leave out comes from the preset of `effort`. */
export const dbfAdmmOptions = v.strictObject({
  /** How long to search: `fast` for trials, `balanced` (default) near the reference's error, `best` below it. */
  effort: v.optional(v.picklist(["fast", "balanced", "best"]), "balanced"),
  /** Outer steps of ADMM; each solves for A and then for B. */
  iterations: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(100_000))),
  /** Inner steps of each half step. */
  innerSteps: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(16))),
  /** Ridge on the Gram matrix in the first outer step, in means of its diagonal. */
  ridgeStart: fraction,
  /** Ridge in the last outer step. */
  ridgeEnd: fraction,
  /** Power of the way from one to the other. */
  ridgePower: fraction,
  /** Penalty ρ of the first inner step in the first outer step; later inner steps use 1. */
  rhoStart: fraction,
  /** The same in the last outer step. */
  rhoEnd: fraction,
  /** Power of the way from one to the other. */
  rhoPower: fraction,
  /** Share of the continuous solution in the fixed factor at the start; falls to 0 at 80 % of the steps. */
  softStart: v.optional(v.pipe(v.number(), v.minValue(0), v.maxValue(1))),
  /** Power of that fall. */
  softPower: fraction,
  /** Over-relaxation of the dual step. */
  relaxation: v.optional(v.pipe(v.number(), v.gtValue(0), v.ltValue(2))),
  /** Sweeps of sign coordinate descent over both factors afterwards. */
  sweeps: count(1000),
  /** Passes of pair flips per factor after the sweeps; a GPU does them instead of sweeps, which are sequential over rows. */
  pairPasses: count(100_000),
  /**
   * Where the native operators are: a sweep is a tabu search on the signs of every row of A and column of B, which ends after this many
   * steps without improvement, and there are no pair flips. 0 sweeps as without them.
   */
  patience: count(1_000_000),
  /** Rounds of the exact scale refit before the first sweep; one more follows every sweep. */
  refits: count(100),
  /** Stop descending when a sweep lowers the weighted error by less than this share of it. */
  tolerance: v.optional(v.pipe(v.number(), v.finite(), v.minValue(0))),
  /** CUDA only: TF32 in products. About twice as fast; heavily weighted layers may diverge, which is an error. */
  tf32: v.optional(v.boolean(), false),
  /** Keep the continuous iterate for sign tuning. */
  latents: v.optional(v.boolean(), true),
});

/** Options after parsing. */
export type DbfAdmmOptions = v.InferOutput<typeof dbfAdmmOptions>;

/** All numbers of one factorization. */
export interface Settings {
  readonly iterations: number;
  readonly innerSteps: number;
  readonly ridgeStart: number;
  readonly ridgeEnd: number;
  readonly ridgePower: number;
  readonly rhoStart: number;
  readonly rhoEnd: number;
  readonly rhoPower: number;
  readonly softStart: number;
  readonly softPower: number;
  readonly relaxation: number;
  readonly sweeps: number;
  readonly pairPasses: number;
  readonly patience: number;
  readonly refits: number;
  readonly tolerance: number;
  readonly tf32: boolean;
  readonly latents: boolean;
}

/** The best of about 700 random schedules on real matrices where single signs and pairs are flipped afterwards (plugins/factorization/README.md). */
const PLAIN = {
  innerSteps: 2,
  ridgeStart: 0.3,
  ridgeEnd: 0.005,
  ridgePower: 0.5,
  rhoStart: 0.1,
  rhoEnd: 0.75,
  rhoPower: 1.5,
  softStart: 0.7,
  softPower: 2,
  relaxation: 1,
  refits: 2,
  patience: 0,
};

/** The best of about 158 random schedules where a tabu search follows: signs that ADMM left undecided are no loss to it. */
const SEARCH = {
  innerSteps: 2,
  ridgeStart: 0.446,
  ridgeEnd: 0.00074,
  ridgePower: 0.44,
  rhoStart: 0.1,
  rhoEnd: 0.511,
  rhoPower: 2.05,
  softStart: 0.515,
  softPower: 1.04,
  relaxation: 1.03,
  refits: 2,
  pairPasses: 0,
};

type Presets = Readonly<Record<DbfAdmmOptions["effort"], Omit<Settings, "latents" | "tf32">>>;

/** Presets with the native operators' search and without; measured trade-offs are in plugins/factorization/README.md. */
export const PRESETS: Readonly<Record<"search" | "plain", Presets>> = {
  search: {
    fast: { ...SEARCH, iterations: 40, sweeps: 2, patience: 64, tolerance: 1e-3 },
    balanced: { ...SEARCH, iterations: 110, sweeps: 4, patience: 256, tolerance: 3e-4 },
    best: { ...SEARCH, iterations: 450, sweeps: 6, patience: 512, tolerance: 1e-4 },
  },
  plain: {
    fast: { ...PLAIN, iterations: 40, sweeps: 2, pairPasses: 0, tolerance: 1e-3 },
    balanced: { ...PLAIN, iterations: 140, sweeps: 3, pairPasses: 32, tolerance: 3e-4 },
    best: { ...PLAIN, iterations: 600, sweeps: 6, pairPasses: 96, tolerance: 1e-4 },
  },
};

/**
 * Fills in what `options` leaves open from its preset.
 *
 * @param searches Whether the runtime has the operators of the search (`hasNativeOps`).
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import * as v from "valibot";
 * import { dbfAdmmOptions, settingsOf } from "./options.ts";
 *
 * const settings = settingsOf(v.parse(dbfAdmmOptions, { effort: "fast", sweeps: 7 }));
 * assertEquals(settings.sweeps, 7);
 * ```
 */
export function settingsOf(options: DbfAdmmOptions, searches = true): Settings {
  const { effort, ...given } = options;
  const explicit = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return {
    ...PRESETS[searches && options.patience !== 0 ? "search" : "plain"][effort],
    latents: options.latents,
    tf32: options.tf32,
    ...explicit,
  };
}
