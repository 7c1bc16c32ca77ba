/**
 * From the names in a recipe to stages with checked options.
 *
 * @module
 */
import * as v from "valibot";
import { nearestNames } from "../checkpoint/nearest.ts";
import type { LayerShape, Stage, StageContext, StageEstimate, StageIO, StageKind } from "../stream/stage.ts";
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
  run(input: StageIO[K]["input"], context: StageContext): Promise<StageIO[K]["output"]>;
}

/** All stages of a run. */
export interface ResolvedStages {
  readonly importance: ResolvedStage<"importance">;
  readonly allocation: ResolvedStage<"allocation">;
  readonly factorization: ResolvedStage<"factorization">;
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
  return {
    kind,
    stage: found,
    options,
    identity: { name: found.name, version: found.version, options },
    estimate: (layer) => found.estimate(layer, options),
    run: (input, context) => found.run(input, options, context),
  };
}

/**
 * Resolves every stage of a recipe.
 *
 * @param stages Built-ins and plugins.
 * @throws {TypeError} as {@linkcode resolveStage} does.
 */
export function resolveStages(recipe: Pick<Recipe, "stages" | "effort">, stages: readonly AnyStage[]): ResolvedStages {
  const { stages: chosen, effort } = recipe;
  const one = <K extends Exclude<StageKind, "reconstruction" | "distillation">>(kind: K) =>
    resolveStage(kind, chosen[kind], stages, `stages.${kind}`, effort);
  return {
    importance: one("importance"),
    allocation: one("allocation"),
    factorization: one("factorization"),
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

/** All stages of a run with their prices, in the order in which they run. */
export function plannedStages(stages: ResolvedStages): PlannedStage[] {
  const { importance, allocation, factorization, reconstruction, packing, distillation, target } = stages;
  return [importance, allocation, factorization, ...reconstruction, packing, distillation, target]
    .filter((stage) => stage !== undefined)
    .map((stage) => ({ kind: stage.kind, name: stage.stage.name, estimate: stage.estimate }));
}
