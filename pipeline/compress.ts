/**
 * A whole compression: checkpoint in, artefact and exported model out, resumable at any moment.
 *
 * @module
 */
import { join } from "node:path";
import { openArtefact } from "./artefact/reader.ts";
import type { ArtefactWriter } from "./artefact/writer.ts";
import type { CheckpointReader } from "./checkpoint/types.ts";
import { layerPeakBytes, type LayerRun, runDistillation, runLayers } from "./compress_layers.ts";
import { type CompressReport, summarize } from "./compress_report.ts";
import { exportModel } from "./export/export_model.ts";
import type { Inventory } from "./plan/inventory.ts";
import { methodOf, type ResolvedStages, storageOfRun } from "./recipe/resolve.ts";
import { parseRecipe } from "./recipe/parse.ts";
import type { Recipe, RecipeInput } from "./recipe/schema.ts";
import { type CompressOptions, startRun } from "./start_run.ts";
import { tensorSeed } from "./stream/seed.ts";
import type { LayerJob, StageContext } from "./stream/stage.ts";

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
  await using started = await startRun(parseRecipe(input), options);
  const { recipe, out, stages, checkpoint, chosen, writer, lease, context, ranks } = started;
  const jobs = chosen.layers.map((layer): LayerJob => ({
    ...layer,
    rank: ranks.get(layer.name)!.rank,
    method: ranks.get(layer.name)!.method ?? methodOf(stages, layer.name),
    seed: tensorSeed(recipe.seed, layer.name),
  }));
  const tooLarge = jobs.find((job) => layerPeakBytes(stages, job) > lease.bytes);
  if (tooLarge !== undefined) await lease.reserve(layerPeakBytes(stages, tooLarge), `"${tooLarge.name}"`);

  const run: LayerRun = {
    checkpoint,
    model: chosen.model,
    stages,
    jobs,
    importance: started.importance,
    calibration: started.calibration,
    made: started.made,
    checkSource: started.checkSource,
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
  context.emit({ type: "run-end", elapsedMs });
  return summarize({
    storageOf: storageOfRun(stages),
    out,
    exported,
    jobs,
    reasons: ranks,
    committed: writer.committed,
    resumedLayers: started.resumedLayers,
    denseTensors: chosen.dense.length,
    peakLeasedBytes: lease.peak,
    elapsedMs,
  });
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
    tables: { embedding: recipe.embedding, head: recipe.head },
    overwrite: true,
    runtime: context.runtime,
    signal: context.signal,
    onEvent: context.emit,
  });
  await writer.recordExport(name, name);
  return directory;
}
