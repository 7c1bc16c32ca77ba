/**
 * The plan of a recipe, with the middle dimensions that its allocation finds, found before, or would start from; and the
 * plan of a finished run.
 *
 * @module
 */
import { builtinStages } from "../plugins/mod.ts";
import { readAllocation } from "./artefact/allocation_file.ts";
import { openArtefact } from "./artefact/reader.ts";
import { openCheckpoint } from "./checkpoint/open.ts";
import { type AllocationTask, allocationTask, identityOf, proposeAllocation } from "./compress_allocation.ts";
import { resolveRun } from "./earlier_run.ts";
import { finishedLayers } from "./finished_layers.ts";
import { TABLE_BITS, type TableOptions } from "./model/tables.ts";
import { neededTensors } from "./model/check.ts";
import { withTableBits } from "./plan/inventory.ts";
import { planRun } from "./plan/plan.ts";
import type { PlanReport } from "./plan/types.ts";
import { planInput } from "./preflight.ts";
import { loadPlugins } from "./recipe/plugin_loader.ts";
import type { ResolvedStages } from "./recipe/resolve.ts";
import type { Recipe } from "./recipe/schema.ts";
import { type CompressOptions, selectLayers, startRun } from "./start_run.ts";
import type { Allocated } from "./stream/stage.ts";

/**
 * Where the middle dimensions of a plan are from: `shapes` alone; the run that it goes on `from`; an earlier run in the `output` directory; `measured` now; or
 * only a `start`, as the allocation measures while compressing.
 */
export type AllocationSource = "shapes" | "from" | "output" | "measured" | "start";

/** A plan with what is known of its allocation. */
export interface RecipePlan extends PlanReport {
  readonly allocation: { readonly stage: string; readonly source: AllocationSource };
}

/** How {@linkcode planRecipe} plans. */
export interface PlanRecipeOptions extends Pick<CompressOptions, "signal" | "onEvent" | "base" | "runtime"> {
  /** Directory of a run: what it found is used, what is measured is kept there for it. */
  readonly out?: string;
  /** Run importance and allocation where the allocation needs it; otherwise nothing is computed. */
  readonly measure?: boolean;
}

/**
 * Plans a run.
 *
 * @throws {TypeError} when the recipe, a plugin or the checkpoint is wrong, naming the field.
 * @throws {RangeError} for a budget that cannot be met, naming the smallest that can.
 * @throws as `compress` does while it measures.
 */
export async function planRecipe(given: Recipe, options: PlanRecipeOptions = {}): Promise<RecipePlan> {
  using loaded = await loadPlugins(given.plugins, {
    builtins: builtinStages,
    base: options.base,
    sandbox: given.pluginSandbox,
  });
  using checkpoint = await openCheckpoint(given.model, { signal: options.signal });
  using resolved = await resolveRun(given, [...builtinStages, ...loaded], checkpoint);
  const { recipe, stages } = resolved;
  const chosen = selectLayers(recipe, checkpoint, stages);
  const task = allocationTask(recipe, chosen, stages);
  const { ranks, source } = await findRanks(recipe, options, task, stages, identityOf(recipe, checkpoint, stages));
  const report = planRun({ ...planInput(recipe, chosen, stages), bitsPerWeight: task.bitsPerWeight, ranks });
  return { ...report, allocation: { stage: stages.allocation.stage.name, source } };
}

async function findRanks(
  recipe: Recipe,
  { out, measure, ...options }: PlanRecipeOptions,
  task: AllocationTask,
  stages: ResolvedStages,
  identity: string,
): Promise<{ readonly ranks: Allocated | undefined; readonly source: AllocationSource }> {
  const proposal = proposeAllocation(task, stages);
  if (proposal?.final) return { ranks: proposal.ranks, source: recipe.from === undefined ? "shapes" : "from" };
  const kept = out === undefined ? undefined : await readAllocation(out);
  if (kept?.identity === identity) return { ranks: kept.layers, source: "output" };
  if (!measure) return { ranks: proposal?.ranks, source: "start" };
  const place = out ?? await Deno.makeTempDir({ prefix: "dbf-plan-" });
  try {
    await using run = await startRun({ ...recipe, out: place }, options);
    return { ranks: run.ranks, source: "measured" };
  } finally {
    if (out === undefined) await Deno.remove(place, { recursive: true });
  }
}

/**
 * The plan that a finished run followed: its layers, their bits and why, and sizes. Time and memory of stages are not known any more.
 *
 * @throws as `openArtefact` does.
 */
export async function planArtefact(directory: string): Promise<RecipePlan> {
  using artefact = await openArtefact(directory);
  const { model, layers, allocation: kept } = await finishedLayers(artefact);
  const byName = new Map(layers.map((layer) => [layer.name, layer]));
  const report = planRun({
    inventory: {
      model,
      layers: layers.map(({ name, block, role, rows, cols }) => ({ name, block, role, rows, cols })),
      dense: withTableBits(
        model,
        neededTensors(model).filter(({ name }) => !byName.has(name)),
        tablesOf(artefact.manifest.fingerprint),
      ),
    },
    bitsPerWeight: kept?.bitsPerWeight,
    ranks: new Map(layers.map(({ name, rank, reason }) => [name, { rank, reason }])),
    storageOf({ name }) {
      const { kind, storage } = byName.get(name)!;
      if (storage !== undefined) return storage;
      throw new TypeError(`Cannot plan "${name}" of ${directory}: its kind ${kind} is a plugin's`);
    },
  });
  return { ...report, allocation: { stage: kept?.stage ?? "unknown", source: "output" } };
}

/** Bits of tables as the run's recipe had them. */
function tablesOf(fingerprint: Readonly<Record<string, unknown>>): TableOptions {
  const { embedding, head } = (fingerprint.recipe ?? {}) as { readonly embedding?: unknown; readonly head?: unknown };
  const known = (bits: unknown) => TABLE_BITS.find((each) => each === bits);
  return { embedding: known(embedding), head: known(head) };
}
