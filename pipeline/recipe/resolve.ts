/**
 * From the names in a recipe to stages with checked options.
 *
 * @module
 */
import * as v from "valibot";
import { nearestNames } from "../checkpoint/nearest.ts";
import { withinTokens } from "../plan/run_shape.ts";
import type { Runtime } from "../../kernels/runtime/types.ts";
import type { StorageOf } from "../plan/sizes.ts";
import { dbfStorage } from "../plan/storage.ts";
import type {
  LayerJob,
  LayerShape,
  LayerStorage,
  Proposal,
  RunShape,
  Stage,
  StageContext,
  StageEstimate,
  StageIO,
  StageKind,
} from "../stream/stage.ts";
import type { StageIdentity } from "../artefact/fingerprint.ts";
import type { PlannedStage } from "../plan/types.ts";
import { describeIssues } from "./parse.ts";
import type { AnyStage } from "./plugin_loader.ts";
import type { Recipe, StageSelection } from "./schema.ts";

/** A stage with its options bound. */
export interface ResolvedStage<K extends StageKind = StageKind> {
  readonly kind: K;
  readonly stage: Stage<K>;
  /** Parsed, defaults filled in. */
  readonly options: Readonly<Record<string, unknown>>;
  /** What enters the fingerprint. */
  readonly identity: StageIdentity;
  estimate(layer: LayerShape & { readonly rank: number }): StageEstimate;
  /** Most calibration tokens that it is given; ∞ for all. */
  readonly calibrationTokens: number;
  /** Most calibration tokens of which a distillation keeps activations at once. */
  keptTokens(
    shape: { readonly windows: number; readonly tokens: number; readonly features: number },
    device: Pick<Runtime, "provider" | "deviceMemory">,
  ): number;
  /** Peak bytes on a whole run: the stage's own answer, or its largest estimate. */
  peakBytesOf(run: RunShape): number;
  /** What a factorization stores a layer as. */
  stores(layer: LayerShape & { readonly rank: number }): LayerStorage;
  /** What an allocation says before it measures; `undefined` where it says nothing. */
  propose(input: Parameters<NonNullable<Stage["propose"]>>[0]): Proposal | undefined;
  run(input: StageIO[K]["input"], context: StageContext): Promise<StageIO[K]["output"]>;
}

/** All stages of a run. */
export interface ResolvedStages {
  readonly importance: ResolvedStage<"importance">;
  readonly allocation: ResolvedStage<"allocation">;
  /** Factorization of layers that no pattern of `methods` matches. */
  readonly factorization: ResolvedStage<"factorization">;
  /** All factorizations: that one as `"default"`, others by the pattern that chooses them. */
  readonly factorizations: ReadonlyMap<string, ResolvedStage<"factorization">>;
  /** Factorizations that the allocation may choose for a layer, by the recipe's name for each. */
  readonly candidates: ReadonlyMap<string, ResolvedStage<"factorization">>;
  readonly reconstruction: readonly ResolvedStage<"reconstruction">[];
  readonly packing: ResolvedStage<"packing">;
  readonly distillation: ResolvedStage<"distillation"> | undefined;
  readonly target: ResolvedStage<"target">;
}

/** Names of a schema's fields, where it is a valibot object. */
function fieldsOf(schema: unknown): readonly string[] {
  const entries = (schema as { readonly entries?: unknown }).entries;
  return typeof entries === "object" && entries !== null ? Object.keys(entries) : [];
}

/**
 * Finds the stage of a kind that a recipe names and parses its options.
 *
 * @param field Path in the recipe, for errors.
 * @param effort Goes to the stage's option `effort` where it has one that was not given.
 * @throws {TypeError} when there is no such stage, with the names there are, or an option is wrong, with its path.
 */
export function resolveStage<K extends StageKind>(
  kind: K,
  choice: StageSelection,
  stages: readonly AnyStage[],
  field: string = `stages.${kind}`,
  effort?: Recipe["effort"],
): ResolvedStage<K> {
  const ofKind = stages.filter((stage) => stage.kind === kind);
  const found = ofKind.find(({ name }) => name === choice.use) as Stage<K> | undefined;
  if (found === undefined) {
    const names = ofKind.map(({ name }) => name);
    const near = nearestNames(choice.use, names, 1);
    throw new TypeError(
      `Cannot use "${choice.use}" for ${field}: ${near.length > 0 ? `did you mean "${near[0]}"? ` : ""}` +
        `There is ${names.join(", ") || "none"}; load others with --plugin`,
    );
  }
  const preset = effort !== undefined && fieldsOf(found.options).includes("effort") ? { effort } : {};
  const parsed = v.safeParse(found.options, { ...preset, ...choice.options });
  if (!parsed.success) {
    throw new TypeError(`Cannot use ${field}.options of "${found.name}": ${describeIssues(parsed.issues)}`);
  }
  const options = parsed.output;
  const calibrationTokens = found.calibrationTokens?.(options) ?? Infinity;
  return {
    kind,
    stage: found,
    options,
    identity: { name: found.name, version: found.version, options },
    estimate: (layer) => found.estimate(layer, options),
    calibrationTokens,
    keptTokens: (shape, device) => found.keptTokens?.(shape, device, options) ?? Infinity,
    peakBytesOf: (run) =>
      found.peakBytesOf?.(withinTokens(run, calibrationTokens), options) ??
        run.layers.reduce((most, layer) => Math.max(most, found.estimate(layer, options).peakBytes), 0),
    stores: (layer) => found.stores?.(layer, options) ?? dbfStorage(layer, layer.rank),
    propose: (input) => found.propose?.(input, options),
    run: (input, context) => found.run(input, options, context),
  };
}

/**
 * Resolves every stage of a recipe.
 *
 * @param stages Built-ins and plugins.
 * @throws {TypeError} as {@linkcode resolveStage} does.
 */
export function resolveStages(
  recipe: Pick<Recipe, "stages" | "effort"> & Partial<Pick<Recipe, "methods" | "candidates">>,
  stages: readonly AnyStage[],
): ResolvedStages {
  const { stages: chosen, methods = {}, candidates = {}, effort } = recipe;
  const one = <K extends Exclude<StageKind, "reconstruction" | "distillation">>(kind: K) =>
    resolveStage(kind, chosen[kind], stages, `stages.${kind}`, effort);
  const factorization = one("factorization");
  const others = Object.entries(methods).map(([pattern, choice]) =>
    [pattern, resolveStage("factorization", choice, stages, `methods[${JSON.stringify(pattern)}]`, effort)] as const
  );
  return {
    importance: one("importance"),
    allocation: one("allocation"),
    factorization,
    factorizations: new Map([[DEFAULT_METHOD, factorization], ...others]),
    candidates: new Map(
      Object.entries(candidates).map(([name, choice]) => {
        if (name === DEFAULT_METHOD || Object.hasOwn(methods, name)) {
          throw new TypeError(`Cannot use candidates.${name}: "${name}" is taken by a method; choose another name`);
        }
        return [name, resolveStage("factorization", choice, stages, `candidates.${name}`, effort)];
      }),
    ),
    reconstruction: chosen.reconstruction.map((choice, index) =>
      resolveStage("reconstruction", choice, stages, `stages.reconstruction[${index}]`, effort)
    ),
    packing: one("packing"),
    distillation: chosen.distillation === undefined || chosen.distillation.use === "none"
      ? undefined
      : resolveStage("distillation", chosen.distillation, stages, "stages.distillation", effort),
    target: one("target"),
  };
}

/** Key of the factorization that layers get unless a pattern chooses another. */
export const DEFAULT_METHOD = "default";

/** Which of the run's factorizations a weight's name chooses: the last pattern that matches, or `"default"`. */
export function methodOf({ factorizations }: Pick<ResolvedStages, "factorizations">, name: string): string {
  return [...factorizations.keys()].findLast((pattern) =>
    pattern !== DEFAULT_METHOD && new RegExp(pattern).test(name)
  ) ??
    DEFAULT_METHOD;
}

/**
 * The factorization of a layer.
 *
 * @throws {RangeError} when its job names a method that the run has not.
 */
export function factorizationOf(
  stages: Pick<ResolvedStages, "factorizations" | "candidates">,
  job: Pick<LayerJob, "name" | "method">,
): ResolvedStage<"factorization"> {
  const method = job.method ?? methodOf(stages, job.name);
  const found = stages.factorizations.get(method) ?? stages.candidates.get(method);
  if (found !== undefined) return found;
  throw new RangeError(
    `Cannot factorize "${job.name}" by method "${method}": this run has ${
      [...stages.factorizations.keys(), ...stages.candidates.keys()].join(", ")
    }`,
  );
}

/** What a run's layers are stored as, each by its factorization. */
export function storageOfRun(stages: Pick<ResolvedStages, "factorizations" | "candidates">): StorageOf {
  return (layer, rank) => factorizationOf(stages, layer).stores({ ...layer, rank });
}

/** All stages of a run with their prices, in the order in which they run. */
export function plannedStages(stages: ResolvedStages): PlannedStage[] {
  const { importance, allocation, factorizations, candidates, reconstruction, packing, distillation, target } = stages;
  const nothing: StageEstimate = { peakBytes: 0, flops: 0 };
  return [
    ...[importance, allocation].map(planned),
    ...[...factorizations, ...candidates].map(([method, stage]) => ({
      ...planned(stage),
      // A factorization costs something only for its own layers.
      estimate: (layer: Omit<LayerJob, "seed">) =>
        (layer.method ?? methodOf(stages, layer.name)) === method ? stage.estimate(layer) : nothing,
    })),
    ...[...reconstruction, packing, distillation, target].filter((stage) => stage !== undefined).map(planned),
  ];
}

function planned(
  { kind, stage, options, estimate, calibrationTokens, peakBytesOf }: Pick<
    ResolvedStage,
    "kind" | "stage" | "options" | "estimate" | "calibrationTokens" | "peakBytesOf"
  >,
): PlannedStage {
  return {
    kind,
    name: stage.name,
    estimate,
    ...(stage.peakBytesOf === undefined ? {} : { peakBytesOf }),
    ...(stage.flopsOf === undefined
      ? {}
      : { flopsOf: (run: RunShape) => stage.flopsOf!(withinTokens(run, calibrationTokens), options) }),
  };
}
