/**
 * The contenders of `bench baselines`: recipes that differ in the factorization and in what tuning is theirs.
 *
 * @module
 */
import type { RecipeInput } from "../pipeline/recipe/schema.ts";

/** One contender. */
export interface Contender {
  /** Short name for `--rows`, e.g. `"gptq-2-g64"`. */
  readonly id: string;
  /** For the table. */
  readonly method: string;
  readonly group?: number;
  /** How it was calibrated and tuned, for the table. */
  readonly tuning: string;
  /** Budget and stages; `undefined` for full precision. */
  readonly recipe: Pick<RecipeInput, "bits" | "stages"> | undefined;
}

/** Stages of a calibrated run, as `dbf compress --calibration` chooses them. */
const TUNED = { importance: "fisher-diagonal", reconstruction: ["block-tuning"], distillation: "logits" } as const;

const DBF_BITS = [1, 1.5, 2, 2.5];
const CODE_BITS = [2, 3, 4];
const GROUPS = [64, 128];

/** Rounding as it is published: rounding and HQQ see weights only, GPTQ the inputs of each layer in the compressed model. */
const ROUNDINGS = [
  { use: "round-to-nearest", method: "rounding", tuning: "none, weights only", stages: {} },
  { use: "hqq", method: "HQQ", tuning: "none, weights only", stages: {} },
  { use: "gptq", method: "GPTQ", tuning: "inputs measured block by block", stages: { reconstruction: ["sequential"] } },
] as const;

const rounded = (bits: number): Contender[] =>
  GROUPS.flatMap((group) =>
    ROUNDINGS.map(({ use, method, tuning, stages }) => ({
      id: `${use}-${bits}-g${group}`,
      method: `${method} ${bits} bits`,
      group,
      tuning,
      recipe: { stages: { ...stages, factorization: { use, options: { bits, group } } } },
    }))
  );

/** Rounding with all the tuning that double-binary layers get, where a scale a group is what can be trained. */
const tunedRounding = (bits: number): Contender[] =>
  GROUPS.map((group) => ({
    id: `gptq-${bits}-g${group}-tuned`,
    method: `GPTQ ${bits} bits`,
    group,
    tuning: "block tuning, scales distilled",
    recipe: { stages: { ...TUNED, factorization: { use: "gptq", options: { bits, group } } } },
  }));

/** All contenders, in the order of the table. */
export const CONTENDERS: readonly Contender[] = [
  { id: "full", method: "full precision (f32)", tuning: "–", recipe: undefined },
  ...DBF_BITS.map((bits): Contender => ({
    id: `dbf-${bits}`,
    method: `DBF ${bits} bits`,
    tuning: "block tuning, signs and scales distilled",
    recipe: { bits, stages: TUNED },
  })),
  {
    id: "sign",
    method: "sign (OneBit)",
    tuning: "block tuning, signs and scales distilled",
    recipe: { stages: { ...TUNED, factorization: "sign" } },
  },
  ...CODE_BITS.flatMap(rounded),
  ...[2, 3].flatMap(tunedRounding),
];
