/**
 * A run up to the point where every layer's middle dimension is known: checkpoint, output, importance, allocation.
 *
 * @module
 */
import { resolve } from "node:path";
import { openRuntime } from "../kernels/runtime/open.ts";
import type { Runtime } from "../kernels/runtime/types.ts";
import { builtinStages } from "../plugins/mod.ts";
import { contentHash } from "./artefact/content_hash.ts";
import type { Fingerprint } from "./artefact/fingerprint.ts";
import { type ArtefactWriter, type CommitStep, openArtefactWriter } from "./artefact/writer.ts";
import { residentChains } from "./calibrate/resident_chains.ts";
import { type CalibrationWindows, chooseWindows } from "./calibrate/windows.ts";
import { openCheckpoint } from "./checkpoint/open.ts";
import type { CheckpointReader } from "./checkpoint/types.ts";
import { allocate, type AllocationTask, allocationTask, identityOf } from "./compress_allocation.ts";
import { cachedImportance } from "./compress_cache.ts";
import { readCalibration } from "./compress_calibration.ts";
import { makeFingerprint } from "./compress_fingerprint.ts";
import { describeOwnText, makeOwnText } from "./compress_own_text.ts";
import { decodeImportance, encodeImportance } from "./compress_state.ts";
import { keepMadeFactors, type MadeFactors } from "./made_factors.ts";
import { type ResolvedRun, resolveRun } from "./earlier_run.ts";
import { describeCheckpoint } from "./model/check.ts";
import { type Inventory, inventory } from "./plan/inventory.ts";
import { findKernelProblems, findProblems, refuseProblems } from "./preflight.ts";
import { type AnyStage, loadPlugins } from "./recipe/plugin_loader.ts";
import { methodOf, type ResolvedStages } from "./recipe/resolve.ts";
import { runShape, windowsOf } from "./plan/run_shape.ts";
import type { Recipe } from "./recipe/schema.ts";
import type { DbfEvent } from "./stream/events.ts";
import { createLease, type Lease } from "./stream/lease.ts";
import type { Allocated, LayerImportance, LayerShape, StageContext } from "./stream/stage.ts";

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

/** A run whose layers have their middle dimensions; disposing it closes everything that it opened. */
export interface StartedRun extends AsyncDisposable {
  /** As given, or with what comes from the run that it goes on from. */
  readonly recipe: Recipe;
  readonly checkSource: ResolvedRun["checkSource"];
  readonly out: string;
  readonly stages: ResolvedStages;
  readonly checkpoint: CheckpointReader;
  readonly chosen: Inventory;
  readonly calibration: CalibrationWindows;
  readonly writer: ArtefactWriter;
  readonly lease: Lease;
  readonly context: StageContext;
  readonly importance: ReadonlyMap<string, LayerImportance>;
  readonly task: AllocationTask;
  readonly ranks: Allocated;
  /** Factors that the allocation made on its way. */
  readonly made: MadeFactors;
  /** Layers that an earlier run had committed. */
  readonly resumedLayers: number;
}

/**
 * Starts or resumes a run. What it measures is kept in the output directory, so that stopping here loses nothing.
 *
 * @throws as {@linkcode compress} does.
 */
export async function startRun(given: Recipe, options: CompressOptions = {}): Promise<StartedRun> {
  const out = resolve(given.out);
  const signal = options.signal ?? new AbortController().signal;
  const emit = options.onEvent ?? (() => {});
  await using stack = new AsyncDisposableStack();
  const loaded = stack.use(
    await loadPlugins(given.plugins, {
      builtins: builtinStages,
      base: options.base,
      sandbox: given.pluginSandbox,
      deadlineSeconds: given.pluginDeadline,
    }),
  );
  const checkpoint = stack.use(await openCheckpoint(given.model, { signal }));
  const known = [...builtinStages, ...options.plugins ?? [], ...loaded];
  const { recipe, stages, checkSource } = stack.use(await resolveRun(given, known, checkpoint));
  const chosen = selectLayers(recipe, checkpoint, stages);
  const task = allocationTask(recipe, chosen, stages);
  const { bitsPerWeight } = task;
  const problems = await findProblems({ recipe, out, checkpoint, chosen, stages, task });
  const opened = options.runtime ??
    await openRuntime({ provider: recipe.provider, threads: recipe.threads, deviceMemory: recipe.deviceMemory }).catch(
      (error: Error) => {
        problems.push(error.message);
        return undefined;
      },
    );
  if (opened !== undefined && options.runtime === undefined) stack.use(opened);
  if (opened !== undefined) problems.push(...await findKernelProblems(opened));
  refuseProblems(problems);
  const runtime = opened!;
  stack.use(residentChains(runtime));
  const request = await readCalibration(recipe, chosen.model);
  const ownText = await describeOwnText(request, { recipe, checkpoint, runtime, signal });

  const fingerprint = makeFingerprint({
    checkpoint,
    recipe,
    bitsPerWeight,
    stages,
    calibration: request.text,
    ownText: ownText?.key,
    runtime,
  });
  const writer = stack.use(
    await openArtefactWriter(out, { fingerprint, restart: options.restart, onStep: options.onCommitStep }),
  );
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
  const directory = recipe.cache ?? writer.scratch;
  const own = ownText === undefined
    ? []
    : await makeOwnText(ownText, { directory, model: recipe.model, runtime, signal, emit });
  const calibration: CalibrationWindows = { text: request.text, own };

  const step: ModelStep = { checkpoint, chosen, stages, lease, context };
  const importance = await scoreLayers({ ...step, calibration, writer, fingerprint, cache: recipe.cache });
  const made = keepMadeFactors(stages);
  const ranks = await allocate({
    ...step,
    task,
    identity: identityOf(recipe, checkpoint, stages),
    importance,
    seed: recipe.seed,
    offer: made.offer,
    writer,
    inStage: (body) =>
      runModelStage(
        stages.allocation.stage.name,
        // candidates are made one after the other with the stage's own trials
        Math.max(
          ...[stages.allocation, ...stages.candidates.values()].map(({ estimate }) =>
            estimate(largest(task.layers)).peakBytes
          ),
        ),
        step,
        body,
      ),
  });
  const held = stack.move();
  return {
    recipe,
    checkSource,
    out,
    stages,
    checkpoint,
    chosen,
    calibration,
    writer,
    lease,
    context,
    importance,
    task,
    ranks,
    made,
    resumedLayers,
    [Symbol.asyncDispose]: () => held.disposeAsync(),
  };
}

/** Layers that the recipe and the layer stages' filters leave. */
export function selectLayers(recipe: Recipe, checkpoint: CheckpointReader, stages: ResolvedStages): Inventory {
  const filters = [stages.packing, ...stages.reconstruction].flatMap(({ stage }) => stage.filter ?? []);
  return inventory(describeCheckpoint(checkpoint), {
    keep: recipe.keep,
    blocks: recipe.blocks === undefined ? undefined : [recipe.blocks[0], recipe.blocks[1]],
    filters,
    tables: { embedding: recipe.embedding, head: recipe.head },
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
  for (const name of recovered.damaged) {
    emit({ type: "notice", message: `the committed file of "${name}" was damaged or gone and is made again` });
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
  step: ModelStep & {
    readonly calibration: CalibrationWindows;
    readonly writer: ArtefactWriter;
    readonly fingerprint: Fingerprint;
    readonly cache: string | undefined;
  },
): Promise<ReadonlyMap<string, LayerImportance>> {
  const { chosen: { layers, model }, stages: { importance }, checkpoint, writer, context } = step;
  const calibration = chooseWindows(step.calibration, importance.calibrationTokens);
  const saved = await writer.loadState("importance");
  if (saved !== undefined) return decodeImportance(saved);
  if (layers.length === 0) return new Map();
  const compute = () =>
    runModelStage(
      importance.stage.name,
      importance.peakBytesOf(
        runShape(model, layers.map((layer) => ({ ...layer, rank: 0 })), windowsOf(step.calibration), () => 0),
      ),
      step,
      () => importance.run({ checkpoint, model, layers, calibration }, context),
    );
  const scores = await cachedImportance(step.cache, { ...step, calibration }, compute);
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
