/**
 * A whole compression: checkpoint in, artefact and exported model out, resumable at any moment.
 *
 * @module
 */
import { join, resolve } from "node:path";
import { openRuntime } from "../kernels/runtime/open.ts";
import type { Runtime } from "../kernels/runtime/types.ts";
import { builtinStages } from "../plugins/mod.ts";
import { contentHash } from "./artefact/content_hash.ts";
import { openArtefact } from "./artefact/reader.ts";
import { type ArtefactWriter, type CommitStep, openArtefactWriter } from "./artefact/writer.ts";
import { residentChains } from "./calibrate/resident_chains.ts";
import { openCheckpoint } from "./checkpoint/open.ts";
import type { CheckpointReader } from "./checkpoint/types.ts";
import { loadCalibration } from "./compress_calibration.ts";
import { makeFingerprint } from "./compress_fingerprint.ts";
import { layerPeakBytes, type LayerRun, runDistillation, runLayers } from "./compress_layers.ts";
import { type CompressReport, summarize } from "./compress_report.ts";
import { decodeImportance, encodeImportance } from "./compress_state.ts";
import { exportModel } from "./export/export_model.ts";
import { describeCheckpoint } from "./model/check.ts";
import { type Inventory, inventory } from "./plan/inventory.ts";
import { bitsForSize, exportedBytes } from "./plan/sizes.ts";
import { findProblems, refuseProblems } from "./preflight.ts";
import { type AnyStage, loadPlugins } from "./recipe/plugin_loader.ts";
import { methodOf, type ResolvedStages, resolveStages, storageOfRun } from "./recipe/resolve.ts";
import { parseRecipe } from "./recipe/parse.ts";
import type { Recipe, RecipeInput } from "./recipe/schema.ts";
import type { DbfEvent } from "./stream/events.ts";
import { createLease, type Lease } from "./stream/lease.ts";
import { tensorSeed } from "./stream/seed.ts";
import type { LayerImportance, LayerJob, LayerShape, StageContext, StageIO } from "./stream/stage.ts";

/** How {@linkcode compress} runs, beside its recipe. */
export interface CompressOptions {
  /** Ends the run; what was committed stays, and the same call resumes. */
  readonly signal?: AbortSignal;
  /** Receives progress. */
  readonly onEvent?: (event: DbfEvent) => void;
  /** Stages beside the built-in ones and those that the recipe's `plugins` name. */
  readonly plugins?: readonly AnyStage[];
  /** An opened runtime to use instead of one for the recipe's provider; it stays open. */
  readonly runtime?: Runtime;
  /** Throw away an earlier run in the output directory. Default false. */
  readonly restart?: boolean;
  /** Directory that relative plugin specifiers start from; the current one by default. */
  readonly base?: string;
  /** Called between the steps of every commit; tests throw here to play a crash. */
  readonly onCommitStep?: (step: CommitStep, name: string) => void;
}

/** Sign bits per weight that are used where a recipe gives neither bits nor size. */
export const DEFAULT_BITS_PER_WEIGHT = 2;

/** Allocations in a row that approach a size from above. */
const MOST_ALLOCATIONS = 4;

/**
 * Compresses a checkpoint. Run again after an interruption it continues; the same recipe on the same machine gives the
 * same bytes however often it was interrupted.
 *
 * @param input The recipe; defaults may be left out.
 * @returns Sizes, errors and times of the finished run.
 * @throws {TypeError} when the recipe, a plugin or the checkpoint is wrong, naming the field.
 * @throws {RangeError} when a layer needs more memory than the lease, or the budget is too small for one.
 * @throws {Error} when something would stop the run (disk, memory, provider, output, tokenizer), all in one message.
 * @throws {Error} when `out` belongs to another run, naming the fields of the fingerprint that differ; or is in use.
 * @throws the signal's reason when it aborts.
 */
export async function compress(input: RecipeInput | Recipe, options: CompressOptions = {}): Promise<CompressReport> {
  const start = performance.now();
  const recipe = parseRecipe(input);
  const out = resolve(recipe.out);
  const signal = options.signal ?? new AbortController().signal;
  const emit = options.onEvent ?? (() => {});
  const loaded = await loadPlugins(recipe.plugins, { builtins: builtinStages, base: options.base });
  const stages = resolveStages(recipe, [...builtinStages, ...options.plugins ?? [], ...loaded]);

  using checkpoint = await openCheckpoint(recipe.model, { signal });
  const chosen = selectLayers(recipe, checkpoint, stages);
  const bitsPerWeight = recipe.size === undefined ? recipe.bits ?? DEFAULT_BITS_PER_WEIGHT : bitsForSize(
    recipe.size,
    chosen.layers,
    chosen.dense,
    chosen.model.blocks.length,
    recipe.dtype,
    storageOfRun(stages),
  );
  const problems = await findProblems({ recipe, out, checkpoint, chosen, stages, bitsPerWeight });
  await using owned = options.runtime === undefined
    ? await openRuntime({ provider: recipe.provider, threads: recipe.threads }).catch((error: Error) => {
      problems.push(error.message);
      return undefined;
    })
    : undefined;
  refuseProblems(problems);
  const runtime = options.runtime ?? owned!;
  await using _chains = residentChains(runtime);
  const calibration = await loadCalibration(recipe, chosen.model, { runtime, signal, emit });

  const fingerprint = await makeFingerprint({ checkpoint, recipe, bitsPerWeight, stages, calibration, runtime });
  using writer = await openArtefactWriter(out, {
    fingerprint,
    restart: options.restart,
    onStep: options.onCommitStep,
  });
  const context: StageContext = { runtime, signal, scratch: writer.scratch, emit };
  const lease = createLease(recipe.memory);
  const resumedLayers = chosen.layers.filter(({ name }) => writer.committed.has(name)).length;
  emit({
    type: "run-start",
    layers: chosen.layers.length,
    resumedLayers,
    provider: runtime.provider,
    binding: runtime.binding,
  });
  reportRecovery(writer, emit);
  await checkSources(checkpoint, writer, signal);

  const importance = await scoreLayers({ checkpoint, chosen, calibration, stages, writer, lease, context });
  const ranks = await allocate({
    checkpoint,
    chosen,
    recipe,
    bitsPerWeight,
    importance,
    stages,
    writer,
    lease,
    context,
  });
  const jobs = chosen.layers.map((layer): LayerJob => ({
    ...layer,
    rank: ranks.get(layer.name)!.rank,
    method: methodOf(stages, layer.name),
    seed: tensorSeed(recipe.seed, layer.name),
  }));
  const tooLarge = jobs.find((job) => layerPeakBytes(stages, job) > lease.bytes);
  if (tooLarge !== undefined) await lease.reserve(layerPeakBytes(stages, tooLarge), `"${tooLarge.name}"`);

  const run: LayerRun = {
    checkpoint,
    model: chosen.model,
    stages,
    jobs,
    importance,
    calibration,
    writer,
    lease,
    parallel: recipe.parallel,
    context,
  };
  await runLayers(run);
  await runDistillation(run);
  await copyDense(checkpoint, chosen, writer, context);
  await writer.finish({
    architecture: chosen.model.architecture,
    blocks: recipe.blocks,
    config: checkpoint.config,
    companions: checkpoint.companions,
  });
  const exported = await exportOnce({ recipe, out, stages, chosen, writer, context });
  await writer.removeScratch();
  const elapsedMs = performance.now() - start;
  emit({ type: "run-end", elapsedMs });
  return summarize({
    storageOf: storageOfRun(stages),
    out,
    exported,
    jobs,
    reasons: ranks,
    committed: writer.committed,
    resumedLayers,
    denseTensors: chosen.dense.length,
    peakLeasedBytes: lease.peak,
    elapsedMs,
  });
}

/** Layers that the recipe and the layer stages' filters leave. */
export function selectLayers(recipe: Recipe, checkpoint: CheckpointReader, stages: ResolvedStages): Inventory {
  const filters = [stages.packing, ...stages.reconstruction].flatMap(({ stage }) => stage.filter ?? []);
  return inventory(describeCheckpoint(checkpoint), {
    keep: recipe.keep,
    blocks: recipe.blocks === undefined ? undefined : [recipe.blocks[0], recipe.blocks[1]],
    filters,
    filterOf: (name) => stages.factorizations.get(methodOf(stages, name))?.stage.filter,
  });
}

function reportRecovery({ recovered, directory }: ArtefactWriter, emit: (event: DbfEvent) => void): void {
  if (recovered.deadOwner !== undefined) {
    emit({ type: "notice", message: `took over ${directory} from process ${recovered.deadOwner}, which had ended` });
  }
  if (recovered.tornLine) {
    emit({ type: "notice", message: "the journal's last line was torn by a crash and was dropped" });
  }
}

/** Makes sure that committed entries were made from the tensors that the checkpoint has now. */
async function checkSources(checkpoint: CheckpointReader, writer: ArtefactWriter, signal: AbortSignal): Promise<void> {
  for (const { name, source } of writer.committed.values()) {
    const now = await contentHash(checkpoint, name, signal);
    if (now !== source) {
      throw new Error(
        `Cannot resume in ${writer.directory} as checkpoint content of "${name}" was ${source} and is now ${now}: ` +
          `use --restart to begin anew there, or another directory`,
      );
    }
  }
}

interface ModelStep {
  readonly checkpoint: CheckpointReader;
  readonly chosen: Inventory;
  readonly stages: ResolvedStages;
  readonly lease: Lease;
  readonly context: StageContext;
}

/** Runs a model-scope stage with events and its bytes reserved. */
async function runModelStage<T>(
  name: string,
  peakBytes: number,
  { lease, context }: Pick<ModelStep, "lease" | "context">,
  body: () => Promise<T>,
): Promise<T> {
  const start = performance.now();
  using _reservation = await lease.reserve(peakBytes, name, context.signal);
  context.emit({ type: "stage-start", stage: name, subject: "model" });
  const result = await body();
  context.signal.throwIfAborted();
  context.emit({ type: "stage-end", stage: name, subject: "model", elapsedMs: performance.now() - start });
  return result;
}

function largest(layers: readonly LayerShape[]): LayerShape & { readonly rank: number } {
  const layer = layers.reduce((most, one) => one.rows * one.cols > most.rows * most.cols ? one : most);
  return { ...layer, rank: Math.min(layer.rows, layer.cols) };
}

async function scoreLayers(
  step: ModelStep & { readonly calibration: readonly Int32Array[]; readonly writer: ArtefactWriter },
): Promise<ReadonlyMap<string, LayerImportance>> {
  const { chosen: { layers, model }, stages: { importance }, checkpoint, calibration, writer, context } = step;
  const saved = await writer.loadState("importance");
  if (saved !== undefined) return decodeImportance(saved);
  if (layers.length === 0) return new Map();
  const scores = await runModelStage(
    importance.stage.name,
    importance.estimate(largest(layers)).peakBytes,
    step,
    () => importance.run({ checkpoint, model, layers, calibration }, context),
  );
  for (const { name, rows, cols } of layers) {
    const score = scores.get(name);
    if (score === undefined) continue;
    const good = (values: Float32Array, length: number) =>
      values.length === length && values.every((value) => Number.isFinite(value) && value >= 0);
    if (!good(score.input, cols) || !good(score.output, rows)) {
      throw new RangeError(
        `Cannot use importance ${importance.stage.name} of "${name}": it must be ${cols} and ${rows} finite numbers ≥ 0`,
      );
    }
  }
  if (scores.size > 0) await writer.saveState("importance", encodeImportance(scores));
  return scores;
}

async function allocate(
  step: ModelStep & {
    readonly recipe: Recipe;
    readonly bitsPerWeight: number;
    readonly importance: ReadonlyMap<string, LayerImportance>;
    readonly writer: ArtefactWriter;
  },
): Promise<StageIO["allocation"]["output"]> {
  const { chosen: { layers, dense, model }, stages, checkpoint, recipe, importance, writer } = step;
  const { allocation } = stages, storageOf = storageOfRun(stages);
  const ranked = layers.filter((layer) => storageOf(layer, 1).ranked);
  const fixed = layers.filter((layer) => !storageOf(layer, 1).ranked)
    .map(({ name }) =>
      [name, { rank: 0, reason: stages.factorizations.get(methodOf(stages, name))!.stage.name }] as const
    );
  if (ranked.length === 0) return new Map(fixed);
  const saved = await writer.loadState("allocation");
  if (saved !== undefined) return new Map(JSON.parse(new TextDecoder().decode(saved)));
  const allocateAt = (bitsPerWeight: number) =>
    runModelStage(
      allocation.stage.name,
      allocation.estimate(largest(ranked)).peakBytes,
      step,
      () =>
        allocation.run(
          { layers: ranked, bitsPerWeight, importance, weight: (name) => checkpoint.tensor(name) },
          step.context,
        ),
    );
  let ranks = await allocateAt(step.bitsPerWeight);
  // The bits were found for uniform ranks; others have as many signs, and more or fewer middle scales and padding bits.
  const elements = ranked.reduce((total, { rows, cols }) => total + rows * cols, 0);
  for (let bits = step.bitsPerWeight, tries = 0; recipe.size !== undefined && tries < MOST_ALLOCATIONS; tries++) {
    const each = layers.map((layer) => storageOf(layer, ranks.get(layer.name)?.rank ?? 0));
    const over = exportedBytes(layers, each, dense, model.blocks.length, recipe.dtype) - recipe.size;
    if (over <= 0) break;
    bits -= 8 * over / elements * (1 + tries);
    ranks = await allocateAt(bits);
  }
  for (const { name } of ranked) {
    const rank = ranks.get(name)?.rank;
    if (rank === undefined || !Number.isInteger(rank) || rank < 1) {
      throw new RangeError(
        `Cannot use allocation ${allocation.stage.name} for "${name}": its rank must be a whole number ≥ 1, ` +
          `current value is ${rank}`,
      );
    }
  }
  ranks = new Map([...ranks, ...fixed]);
  // A finished run that is asked for again stays as it is, byte for byte.
  if (layers.some(({ name }) => !writer.committed.has(name))) {
    await writer.saveState("allocation", new TextEncoder().encode(JSON.stringify([...ranks])));
  }
  return ranks;
}

async function copyDense(
  checkpoint: CheckpointReader,
  { dense }: Inventory,
  writer: ArtefactWriter,
  { signal, emit }: StageContext,
): Promise<void> {
  for (const [index, { name }] of dense.entries()) {
    signal.throwIfAborted();
    if (!writer.committed.has(name)) await writer.commitDense(checkpoint, name, signal);
    emit({ type: "stage-progress", stage: "copy", subject: name, done: index + 1, total: dense.length });
  }
}

/** Removes what killed exports left beside their place. */
async function removeUnfinished(out: string, target: string): Promise<void> {
  for await (const { name, isDirectory } of Deno.readDir(out)) {
    if (isDirectory && name.startsWith(`${target}.tmp-`)) await Deno.remove(join(out, name), { recursive: true });
  }
}

/** Exports the finished artefact to OUT/<target>, unless an earlier run did. */
async function exportOnce(parts: {
  readonly recipe: Recipe;
  readonly out: string;
  readonly stages: ResolvedStages;
  readonly chosen: Inventory;
  readonly writer: ArtefactWriter;
  readonly context: StageContext;
}): Promise<string> {
  const { recipe, out, stages: { target }, chosen: { model }, writer, context } = parts;
  const name = target.stage.name;
  const directory = join(out, name);
  const present = await Deno.stat(directory).then(({ isDirectory }) => isDirectory, () => false);
  if (writer.exports.has(name) && present) return directory;
  await removeUnfinished(out, name);
  using source = await openArtefact(out);
  await exportModel({
    source,
    model,
    target: target.stage,
    options: target.options,
    directory,
    dtype: recipe.dtype,
    overwrite: true,
    runtime: context.runtime,
    signal: context.signal,
    onEvent: context.emit,
  });
  await writer.recordExport(name, name);
  return directory;
}
