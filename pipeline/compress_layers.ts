/**
 * Layers from weight to commit: one by one, or block by block where reconstruction stages tune around them.
 *
 * @module
 */
import { endSharedSessions } from "../plugins/factorization/dbf_admm/sessions.ts";
import { isFactorsKind, unpackFactors } from "../plugins/packing/unpack.ts";
import { checkPacked } from "./artefact/check_packed.ts";
import { contentHash } from "./artefact/content_hash.ts";
import { readPackedFile } from "./artefact/packed_file.ts";
import type { ArtefactWriter } from "./artefact/writer.ts";
import { type CalibrationWindows, chooseWindows } from "./calibrate/windows.ts";
import type { CheckpointReader, TensorHandle } from "./checkpoint/types.ts";
import { decodeLatents, decodePacked, encodeLatents, encodePacked } from "./compress_state.ts";
import type { ResolvedRun } from "./earlier_run.ts";
import type { MadeFactors } from "./made_factors.ts";
import type { ModelDescription } from "./model/types.ts";
import { runShape, windowsOf } from "./plan/run_shape.ts";
import { factorizationOf, type ResolvedStages } from "./recipe/resolve.ts";
import type { Lease } from "./stream/lease.ts";
import { runJobs } from "./stream/runner.ts";
import type { Factors, LayerImportance, LayerJob, PackedLayer, RunShape, StageContext } from "./stream/stage.ts";

/** What the steps of a run share. */
export interface LayerRun {
  readonly checkpoint: CheckpointReader;
  readonly model: ModelDescription;
  readonly stages: ResolvedStages;
  readonly jobs: readonly LayerJob[];
  readonly importance: ReadonlyMap<string, LayerImportance>;
  readonly calibration: CalibrationWindows;
  /** Factors that the allocation made on its way. */
  readonly made: Pick<MadeFactors, "take">;
  /** Refuses a weight other than the one that a run to go on from had. */
  readonly checkSource: ResolvedRun["checkSource"];
  readonly writer: ArtefactWriter;
  readonly lease: Lease;
  readonly parallel: number;
  readonly context: StageContext;
}

/** The run in shapes. */
function shapeOf({ model, jobs, calibration, stages }: LayerRun): RunShape {
  return runShape(model, jobs, windowsOf(calibration), (job) => factorizationOf(stages, job).estimate(job).peakBytes);
}

/** Packed tensors of a committed layer. */
function readCommitted({ writer }: LayerRun, name: string): Promise<PackedLayer> {
  const record = writer.committed.get(name);
  if (record === undefined) return Promise.reject(new Error(`Cannot read "${name}" as it was not committed`));
  return readPackedFile(writer.path(record), record);
}

const latentsKey = (name: string) => `latents ${name}`;
const distilledKey = (name: string) => `distilled ${name}`;
const DISTILLED = "distilled";

/** Peak bytes of one layer's own stages. */
export function layerPeakBytes(
  stages: Pick<ResolvedStages, "factorizations" | "candidates" | "packing">,
  job: LayerJob,
): number {
  return Math.max(factorizationOf(stages, job).estimate(job).peakBytes, stages.packing.estimate(job).peakBytes);
}

async function packFactors({ stages: { packing } }: LayerRun, job: LayerJob, factors: Factors, context: StageContext) {
  return checkPacked(job.name, packing.stage.name, await packing.run({ job, factors }, context));
}

async function commitPacked(run: LayerRun, job: LayerJob, layer: PackedLayer, source: string): Promise<void> {
  const { writer, context, jobs } = run;
  const record = await writer.commitLayer(job.name, [job.rows, job.cols], layer, source, context.signal);
  const { weightedError } = layer.attributes;
  context.emit({
    type: "layer-committed",
    layer: job.name,
    kind: layer.kind,
    bytes: record.bytes,
    ...(typeof weightedError === "number" ? { weightedError } : {}),
    done: jobs.filter(({ name }) => writer.committed.has(name)).length,
    total: jobs.length,
  });
}

/** Keeps the continuous iterate for a distillation stage, before the layer counts as committed. */
async function keepLatents(run: LayerRun, name: string, factors: Factors): Promise<void> {
  if (run.stages.distillation === undefined || factors.latents === undefined) return;
  await run.writer.saveState(latentsKey(name), encodeLatents(factors.latents));
}

/** Factorizes and commits every layer that is not committed yet, independently of each other. */
async function runIndependent(run: LayerRun, signal: AbortSignal): Promise<void> {
  const { checkpoint, stages, importance, context } = run;
  const sources = new Map<string, string>();
  const inside = (inner: AbortSignal): StageContext => ({ ...context, signal: inner });
  await runJobs<LayerJob, TensorHandle, Factors, PackedLayer>({
    jobs: run.jobs.filter(({ name }) => !run.writer.committed.has(name)),
    subject: ({ name }) => name,
    peakBytes: (job) => layerPeakBytes(stages, job),
    lease: run.lease,
    parallel: run.parallel,
    signal,
    emit: context.emit,
    read: {
      name: "read",
      async run({ name }, _, inner) {
        const source = await contentHash(checkpoint, name, inner);
        run.checkSource(name, source);
        sources.set(name, source);
        return checkpoint.tensor(name);
      },
    },
    factorize: {
      name: stages.factorization.stage.name,
      run: async (job, weight, inner) =>
        run.made.take(job) ??
          await factorizationOf(stages, job).run({ job, weight, importance: importance.get(job.name) }, inside(inner)),
    },
    pack: {
      name: stages.packing.stage.name,
      async run(job, factors, inner) {
        await keepLatents(run, job.name, factors);
        return await packFactors(run, job, factors, inside(inner));
      },
    },
    commit: {
      name: "commit",
      async run(job, layer) {
        await commitPacked(run, job, layer, sources.get(job.name)!);
        sources.delete(job.name);
      },
    },
  });
}

/** Factors of a committed layer; `undefined` where it was kept dense or packed as something else. */
async function committedFactors(run: LayerRun, name: string): Promise<Factors | undefined> {
  const record = run.writer.committed.get(name);
  if (record === undefined || !isFactorsKind(record.kind)) return undefined;
  return unpackFactors(name, record.shape, await readCommitted(run, name));
}

/** Runs the reconstruction stages over one block and commits its layers. */
async function runBlock(run: LayerRun, block: number, jobs: readonly LayerJob[], signal: AbortSignal): Promise<void> {
  const { stages, writer, checkpoint, importance } = run;
  const context: StageContext = { ...run.context, signal };
  const shape = shapeOf(run);
  const layers = Math.max(...jobs.map((job) => layerPeakBytes(stages, job)));
  const peak = Math.max(
    ...stages.reconstruction.map((stage) =>
      stage.peakBytesOf(shape) + (stage.stage.peakBytesOf === undefined ? layers : 0)
    ),
  );
  using _reservation = await run.lease.reserve(peak, `block ${block}`, signal);
  const sources = new Map<string, string>();
  for (const { name } of jobs) sources.set(name, await contentHash(checkpoint, name, signal));

  // Each later stage starts from what the one before it made.
  let factors: ReadonlyMap<string, Factors> | undefined;
  for (const stage of stages.reconstruction) {
    const before = factors;
    const subject = `block ${block}`;
    const start = performance.now();
    context.emit({ type: "stage-start", stage: stage.stage.name, subject });
    factors = await stage.run({
      block,
      model: run.model,
      checkpoint,
      jobs,
      importance,
      calibration: chooseWindows(run.calibration, stage.calibrationTokens),
      committed: (name) => committedFactors(run, name),
      wantsInputMoment: (job) => factorizationOf(stages, job).stage.wantsInputMoment ?? false,
      factorize: (job, weight, inputMoment) => {
        const made = before?.get(job.name);
        if (made !== undefined && weight === checkpoint.tensors.get(job.name)) return Promise.resolve(made);
        return factorizationOf(stages, job).run(
          { job, weight, importance: importance.get(job.name), inputMoment },
          context,
        );
      },
    }, context);
    signal.throwIfAborted();
    context.emit({ type: "stage-end", stage: stage.stage.name, subject, elapsedMs: performance.now() - start });
  }
  for (const job of jobs) {
    const made = factors?.get(job.name);
    if (made === undefined) {
      throw new TypeError(
        `Cannot commit "${job.name}" as ${stages.reconstruction.at(-1)!.stage.name} returned no factors for it`,
      );
    }
    // A layer that was committed before an interruption is made again for its block, with the same result.
    if (writer.committed.has(job.name)) continue;
    await keepLatents(run, job.name, made);
    await commitPacked(run, job, await packFactors(run, job, made, context), sources.get(job.name)!);
  }
}

/** Takes every job to its commit. Layers that are committed already are not touched. */
export async function runLayers(run: LayerRun): Promise<void> {
  const { signal } = run.context;
  if (run.stages.reconstruction.length === 0) return await runIndependent(run, signal);
  const blocks = Map.groupBy(run.jobs, ({ block }) => block);
  for (const [block, jobs] of [...blocks].sort(([a], [b]) => a - b)) {
    signal.throwIfAborted();
    if (jobs.some(({ name }) => !run.writer.committed.has(name))) await runBlock(run, block, jobs, signal);
  }
}

/**
 * Runs the distillation stage, where there is one. What it commits is first kept as working state and becomes the next
 * generation of all layers only when the stage is done, so that an interrupted one starts from what the layers were.
 */
export async function runDistillation(run: LayerRun): Promise<void> {
  const { stages: { distillation }, writer, jobs, context } = run;
  if (distillation === undefined || jobs.length === 0) return;
  const byName = new Map(jobs.map((job) => [job.name, job]));
  let changed: readonly string[];
  const saved = await writer.loadState(DISTILLED);
  if (saved !== undefined) {
    changed = JSON.parse(new TextDecoder().decode(saved));
  } else {
    const pending = new Set<string>();
    const start = performance.now();
    context.emit({ type: "stage-start", stage: distillation.stage.name, subject: "model" });
    await endSharedSessions(context.runtime);
    using _reservation = await run.lease.reserve(
      distillation.peakBytesOf(shapeOf(run)),
      distillation.stage.name,
      context.signal,
    );
    const { loss, flipped, perplexity } = await distillation.run({
      model: run.model,
      checkpoint: run.checkpoint,
      jobs,
      importance: run.importance,
      calibration: chooseWindows(run.calibration),
      async factors(name) {
        const state = pending.has(name) ? await writer.loadState(distilledKey(name)) : undefined;
        const { rows, cols } = byName.get(name) ?? { rows: 0, cols: 0 };
        const packed = state === undefined ? await readCommitted(run, name) : decodePacked(state);
        const latents = await writer.loadState(latentsKey(name));
        return {
          ...unpackFactors(name, [rows, cols], packed),
          ...(latents === undefined ? {} : { latents: decodeLatents(latents) }),
        };
      },
      async commit(name, factors) {
        const job = byName.get(name);
        if (job === undefined) throw new RangeError(`Cannot commit "${name}" as it is not a layer of this run`);
        const layer = await packFactors(run, job, factors, context);
        await writer.saveState(distilledKey(name), encodePacked(layer));
        pending.add(name);
      },
    }, context);
    context.signal.throwIfAborted();
    changed = [...pending].sort();
    await writer.saveState(DISTILLED, new TextEncoder().encode(JSON.stringify(changed)));
    context.emit({
      type: "stage-end",
      stage: distillation.stage.name,
      subject: "model",
      elapsedMs: performance.now() - start,
      detail: { loss, flipped, ...(perplexity === undefined ? {} : { perplexity }) },
    });
  }
  for (const name of changed) {
    const record = writer.committed.get(name)!;
    if (record.generation > 0) continue; // committed before an interruption
    const state = await writer.loadState(distilledKey(name));
    if (state === undefined) {
      throw new Error(`Cannot finish the distillation as the working state of "${name}" is gone: use --restart`);
    }
    await commitPacked(run, byName.get(name)!, decodePacked(state), record.source);
  }
}
