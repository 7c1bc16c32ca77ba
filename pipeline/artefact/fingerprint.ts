/**
 * What a run's results depend on. Equal fingerprints give byte-identical artefacts; resuming needs an equal one.
 *
 * @module
 */
import type { CheckpointReader } from "../checkpoint/types.ts";
import { sha256 } from "./durable.ts";

/** A stage as it enters the fingerprint. */
export interface StageIdentity {
  readonly name: string;
  readonly version: string;
  readonly options: Readonly<Record<string, unknown>>;
}

/** Everything that decides the bytes of an artefact, except the tensors' contents, which the journal holds one by one. */
export interface Fingerprint {
  /** Version of dbf. */
  readonly dbf: string;
  readonly checkpoint: {
    /** Hash over names, shapes and types of all tensors, sorted by name. */
    readonly headers: string;
    /** Hash of the parsed config.json. */
    readonly config: string;
  };
  /** Fields of the recipe that decide results: budget, selection, types; not where files lie or how much memory is lent. */
  readonly recipe: Readonly<Record<string, unknown>>;
  readonly stages: Readonly<Record<string, StageIdentity | readonly StageIdentity[]>>;
  /** Hash of the calibration text's tokens; `null` for a run without. */
  readonly calibration: string | null;
  /** Hash of what decides the model's own text among them; absent where there is none. */
  readonly ownText?: string;
  readonly seed: number;
  readonly provider: string;
  readonly onnxruntime: string;
  readonly threads: number;
  /** Processor architecture, and the instruction set that the native kernels dispatch to. */
  readonly instructionSet: string;
}

/** JSON with sorted keys, so that equal values have equal text. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(
    value,
    (_, inner) =>
      inner !== null && typeof inner === "object" && !Array.isArray(inner)
        ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0))
        : inner,
  );
}

/** Identity of a checkpoint from its headers alone. */
export function checkpointIdentity(checkpoint: CheckpointReader): Fingerprint["checkpoint"] {
  const rows = [...checkpoint.tensors.values()].map(({ name, dtype, shape }) => [name, dtype, shape] as const);
  rows.sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0);
  return { headers: sha256(canonicalJson(rows)), config: sha256(canonicalJson(checkpoint.config)) };
}

/** One field in which two fingerprints differ. */
export interface FingerprintDifference {
  /** Path of the field, e.g. `"stages.factorization.options.iterations"`. */
  readonly field: string;
  readonly before: unknown;
  readonly now: unknown;
}

/**
 * Fields in which two fingerprints differ, by path.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { fingerprintDifferences } from "./fingerprint.ts";
 *
 * const differences = fingerprintDifferences({ seed: 1, recipe: { bits: 2 } }, { seed: 1, recipe: { bits: 1 } });
 * assertEquals(differences, [{ field: "recipe.bits", before: 2, now: 1 }]);
 * ```
 */
export function fingerprintDifferences(before: unknown, now: unknown, field = ""): FingerprintDifference[] {
  const isObject = (value: unknown): value is Record<string, unknown> => value !== null && typeof value === "object";
  if (isObject(before) && isObject(now) && Array.isArray(before) === Array.isArray(now)) {
    const keys = [...new Set([...Object.keys(before), ...Object.keys(now)])].sort();
    return keys.flatMap((key) => fingerprintDifferences(before[key], now[key], field === "" ? key : `${field}.${key}`));
  }
  return canonicalJson(before) === canonicalJson(now) ? [] : [{ field, before, now }];
}

const MAX_SHOWN = 8;

/** Says why a run cannot continue in `directory`. */
export function describeDifferences(directory: string, differences: readonly FingerprintDifference[]): string {
  const show = (value: unknown) => value === undefined ? "absent" : canonicalJson(value);
  const fields = differences.slice(0, MAX_SHOWN).map(({ field, before, now }) =>
    `${field} was ${show(before)} and is now ${show(now)}`
  );
  if (differences.length > MAX_SHOWN) fields.push(`and ${differences.length - MAX_SHOWN} more`);
  return `Cannot resume in ${directory} as ${
    fields.join("; ")
  }: use --restart to begin anew there, or another directory`;
}
