/**
 * Distillation of the whole compressed model, block by block: forward keeping the input of each block, loss on the logits,
 * backward redoing each block, and a step of the optimizer as soon as a block's gradients are there.
 *
 * @module
 */
import type { Tensor } from "../../kernels/runtime/types.ts";
import type { BlockDescription } from "../model/types.ts";
import type { Factors, StageContext, StageIO } from "../stream/stage.ts";
import { type ActivationSource, batchesOf } from "./activations.ts";
import { type AdamW, openAdamW } from "./adamw.ts";
import { batchWindows, type TrainingLength, trainingSteps } from "./batch_size.ts";
import type { BlockGraphKind, LinearTreatment } from "./block_graph.ts";
import {
  countFlips,
  FACTOR_VECTORS,
  type FactorRates,
  factorVectors,
  fixedFeeds,
  trainedFactors,
  treatments,
} from "./block_state.ts";
import { chainDirectory } from "./chain.ts";
import { embeddedBy, embeddedWindows } from "./embedding.ts";
import { type BlockEngine, disposeFeeds, type Feeds, feedsFor, openBlockEngine } from "./engine.ts";
import { type Head, openHead } from "./head.ts";
import { defaultRates, type LatentStart } from "./default_rates.ts";
import { cosineFactor } from "./schedule.ts";
import { shuffledBatches } from "./shuffle.ts";
import { freeArrays } from "./move_array.ts";
import { type LentTensor, openTensorPool, owned, type TensorPool } from "./tensor_pool.ts";
import { LAYER_KINDS } from "./layer_kinds.ts";
import { openStateStore, type StateStore } from "./state_store.ts";
import { openTeacher } from "./teacher.ts";

/** How a distillation trains. */
export interface DistillationOptions {
  /** Bytes of the teacher's hidden states at once, see {@linkcode openTeacher}; the result is the same whatever it is. */
  readonly teacherBytes: number;
  readonly length: TrainingLength;
  /** Of latents and scales, each {@linkcode defaultRates} where absent. */
  readonly rates: Partial<FactorRates>;
  /** β₁ of AdamW: how much of the mean of gradients a step keeps. */
  readonly momentum: number;
  /** Tokens a step, in whole windows, two at least. */
  readonly batchTokens: number;
  /** Bytes of latents, scales and moments kept on the device; blocks beyond are kept in files. */
  readonly residentBytes: number;
  /** Seconds between saves of the state, from which an interrupted run goes on. */
  readonly saveSeconds: number;
}

/** One block in training. */
interface DistilledBlock {
  readonly block: BlockDescription;
  readonly linears: ReadonlyMap<string, LinearTreatment>;
  /** Norms, biases, and what of the factors is not trained. */
  readonly vectors: Feeds;
  /** Committed factors: what training started from. */
  readonly before: ReadonlyMap<string, Factors>;
}

/** First windows of the calibration text that the result is scored on. */
const SCORED_WINDOWS = 16;

/** Weight of the newest loss in the running mean. */
const LOSS_SMOOTHING = 0.05;

/** Where latents begin, by the first layer that has signs. */
async function latentStart({ jobs, factors }: StageIO["distillation"]["input"]): Promise<LatentStart> {
  for (const { name } of jobs) {
    const found = await factors(name);
    if (LAYER_KINDS[found.kind].signs(found).length > 0) return found.latents === undefined ? "equal" : "factorized";
  }
  return "factorized";
}

/** Rates that were given, and those that follow from the length of the training, the layers' bits and where their latents begin. */
async function ratesOf(
  input: StageIO["distillation"]["input"],
  given: Partial<FactorRates>,
  steps: number,
): Promise<FactorRates> {
  const { signs, scales } = defaultRates(input.jobs, steps, await latentStart(input));
  return { ...given, signs: given.signs ?? signs, scales: given.scales ?? scales };
}

/** Runs one graph of a block into tensors for all of its outputs; weights of linears that stay dense are on the device only meanwhile. */
async function runBlock(
  engine: BlockEngine,
  { block, linears, vectors }: DistilledBlock,
  kind: BlockGraphKind,
  [batch, tokens]: readonly number[],
  feeds: Feeds,
  into: Feeds,
): Promise<void> {
  const session = await engine.session(block, { kind, batch, tokens, linears });
  const kept = block.linears.filter(({ role }) => linears.get(role) === "frozen").map(({ role }) => role);
  const dense = await engine.weights(block, kept);
  try {
    await session.run(feedsFor(session, feeds, vectors, dense), { into });
  } finally {
    disposeFeeds(dense);
  }
}

/** What a distillation works with. */
interface DistillationRun {
  readonly engine: BlockEngine;
  readonly blocks: readonly DistilledBlock[];
  readonly store: StateStore;
  readonly optimizer: AdamW;
  readonly head: Head;
  readonly pool: TensorPool;
}

/** Output of a block of the compressed model. */
async function forwardBlock(run: DistillationRun, each: DistilledBlock, x: Tensor): Promise<LentTensor> {
  const { engine, store, pool } = run;
  const { index } = each.block;
  const parameters = store.has(index) ? await store.parameters(index) : {};
  const y = pool.lend(x.shape);
  await runBlock(engine, each, "forward", x.shape, { x, ...parameters }, { y: y.tensor });
  if (store.has(index)) store.release(index);
  return y;
}

/** Perplexity of the compressed model on windows, the first token of each unscored. */
async function perplexityOn(
  run: DistillationRun,
  windows: readonly Int32Array[],
  inputs: ActivationSource,
  batch: number,
): Promise<number> {
  let loss = 0;
  for (const indices of batchesOf(windows.length, batch)) {
    let x = owned(await inputs.tensor(indices));
    for (const each of run.blocks) {
      using before = x;
      x = await forwardBlock(run, each, before.tensor);
    }
    using output = x;
    loss += await run.head.crossEntropy(output.tensor, indices.map((index) => windows[index]));
  }
  return Math.exp(loss / (windows.length * (windows[0].length - 1)));
}

/** One step on a batch of windows, whose `input` it takes over; returns the mean KL divergence in nats a token before it. */
async function distilStep(
  run: DistillationRun,
  data: { readonly input: Tensor; readonly teacher: Tensor },
  step: number,
  factor: number,
): Promise<number> {
  const { engine, blocks, store, optimizer, head, pool } = run;
  const { shape } = data.input;
  const inputs: LentTensor[] = [owned(data.input)];
  for (const each of blocks) {
    inputs.push(await forwardBlock(run, each, inputs[inputs.length - 1].tensor));
  }
  const output = inputs.pop()!;
  const found = await head.distillation(output.tensor, data.teacher);
  output[Symbol.dispose]();
  let gradient = owned(found.gradient);
  for (const each of [...blocks].reverse()) {
    using x = inputs.pop()!;
    using after = gradient;
    gradient = pool.lend(shape);
    const { index } = each.block;
    const vectors = store.has(index) ? await store.open(index) : undefined;
    const parameters = vectors && { latents: vectors.latents.parameter, scales: vectors.scales.parameter };
    const trained = vectors === undefined
      ? []
      : FACTOR_VECTORS.filter((name) => vectors[name].parameter.shape[0] > 0).map((name) => ({
        vector: vectors[name],
        name: `${name}_gradient`,
        own: pool.lend(vectors[name].parameter.shape),
      }));
    const into = Object.fromEntries(trained.map(({ name, own }) => [name, own.tensor]));
    const feeds = { x: x.tensor, gradient: after.tensor, ...parameters };
    await runBlock(engine, each, "backward", shape, feeds, { ...into, x_gradient: gradient.tensor });
    for (const { vector, own } of trained) {
      using found = own;
      await optimizer.step(vector, found.tensor, step, factor);
    }
    if (vectors !== undefined) await store.close(index);
  }
  gradient[Symbol.dispose]();
  return found.loss / (shape[0] * shape[1]);
}

/**
 * Trains signs (straight-through on unit-scale latents) and scales of all compressed layers by
 * KL(full precision ‖ compressed) of the next token's distribution, and commits the result.
 *
 * @returns Running mean of the loss at the end, nats a token; the share of signs that changed; and perplexity on the first
 *   windows of the calibration text, for comparison with the exported model.
 */
export async function distilModel(
  input: StageIO["distillation"]["input"],
  options: DistillationOptions,
  context: StageContext,
  stage: string,
): Promise<StageIO["distillation"]["output"]> {
  const { model, checkpoint, jobs, calibration } = input;
  const { teacherBytes, ...training } = options;
  const batch = batchWindows(options.batchTokens, calibration, stage, 2);
  const tokens = calibration[0].length;
  await using engine = openBlockEngine(context.runtime, model, checkpoint);
  const steps = trainingSteps(options.length, calibration.length, batch, tokens);
  const rates = await ratesOf(input, options.rates, steps);
  const batches = shuffledBatches(calibration.length, batch, jobs[0]?.seed ?? 0);
  const { scratch, signal } = context;
  await using head = await openHead(context.runtime, model, checkpoint);
  // A head that is tied to the embedding is in memory anyway.
  const embed = (windows: readonly Int32Array[]) =>
    head.embed === undefined
      ? embeddedWindows(context.runtime, checkpoint, model, windows)
      : embeddedBy(head.embed, model.hiddenSize, windows);
  const chain = {
    engine,
    windows: calibration,
    directory: chainDirectory(scratch, calibration),
    scratch,
    batch,
    embed,
    signal,
  };
  // What the full-precision model's last block gives is all that is needed of the teacher.
  using teacher = openTeacher(chain, batches, steps, teacherBytes);
  using inputs = embed(calibration);
  await using optimizer = await openAdamW(context.runtime, { beta1: options.momentum });
  using pool = openTensorPool(context.runtime);
  const compressed = new Set(jobs.map(({ name }) => name));
  const blocks: DistilledBlock[] = [];
  await using store = openStateStore({
    runtime: context.runtime,
    directory: `${context.scratch}/distillation`,
    residentBytes: options.residentBytes,
    identity: JSON.stringify([
      { ...training, rates },
      jobs.map(({ name, rank }) => [name, rank]),
      calibration.length,
      tokens,
    ]),
  });
  const first = await store.resume();
  for (const block of model.blocks) {
    const before = new Map<string, Factors>();
    for (const { weight } of block.linears) if (compressed.has(weight)) before.set(weight, await input.factors(weight));
    if (before.size > 0) {
      await store.add(block.index, () => Promise.resolve(factorVectors(context.runtime, block, before, rates)));
    }
    freeArrays([...before.values()].flatMap(({ latents }) => Object.values<Uint16Array>(latents ?? {})));
    const slim = new Map([...before].map(([name, factors]) => [name, { ...factors, latents: undefined }]));
    const vectors = { ...await engine.vectors(block), ...fixedFeeds(context.runtime, block, before) };
    blocks.push({ block, linears: treatments(block, before), vectors, before: slim });
  }
  const run: DistillationRun = { engine, blocks, store, optimizer, head, pool };
  let running = Number.NaN;
  let saved = performance.now();
  for (let step = first; step < steps; step++) {
    context.signal.throwIfAborted();
    const indices = batches(step);
    using target = await teacher.tensor(step);
    const data = { input: await inputs.tensor(indices), teacher: target };
    const factor = cosineFactor(step, steps);
    const loss = await distilStep(run, data, step, factor);
    running = Number.isNaN(running) ? loss : (1 - LOSS_SMOOTHING) * running + LOSS_SMOOTHING * loss;
    context.emit({
      type: "stage-progress",
      stage,
      subject: model.architecture,
      done: step + 1,
      total: steps,
      detail: { loss: running, rate: rates.signs * factor },
    });
    if (performance.now() - saved > 1000 * options.saveSeconds) {
      await store.save(step + 1);
      saved = performance.now();
    }
  }
  const scored = calibration.slice(0, SCORED_WINDOWS);
  const perplexity = await perplexityOn(run, scored, inputs, batch);
  let flipped = 0, signs = 0;
  for (const { block, before, vectors } of blocks) {
    disposeFeeds(vectors);
    if (before.size === 0) continue;
    const after = await trainedFactors(block, before, await store.open(block.index), { latents: false });
    await store.close(block.index);
    for (const [name, factors] of after) await input.commit(name, factors);
    const flips = countFlips(before, after);
    flipped += flips.flipped;
    signs += flips.signs;
  }
  await store.finish();
  flipped /= Math.max(1, signs);
  return { loss: running, flipped, perplexity };
}
