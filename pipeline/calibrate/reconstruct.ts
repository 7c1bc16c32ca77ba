/**
 * Reconstruction of one block: retune what is still dense, factorize, repeat; then tune signs and scales together.
 *
 * @module
 */
import type { BlockDescription } from "../model/types.ts";
import type { Factors, LayerImportance, LayerJob, StageContext, StageIO } from "../stream/stage.ts";
import type { ActivationSource } from "./activations.ts";
import { openAdamW } from "./adamw.ts";
import { batchWindows } from "./batch_size.ts";
import { compressionOrder } from "./block_order.ts";
import { flippedShare } from "./block_state.ts";
import { type BlockRun, type ReconstructionOptions, retune, stepsOf, tuneSigns } from "./block_training.ts";
import { advanceChain, chainDirectory, type ChainOptions, dropChain, dropOtherChains, openChain } from "./chain.ts";
import { type BlockEngine, disposeFeeds, type Feeds, openBlockEngine } from "./engine.ts";
import { committedWeights, factorWeight } from "./factor_weight.ts";
import { inputMoment } from "./input_moment.ts";
import { memoryTensor } from "./memory_tensor.ts";

/** What changes a still-dense weight before it is factorized, other than training. */
export type WeightCorrection = (
  state: { readonly inputs: ActivationSource; readonly reference: ActivationSource; readonly frozen: Feeds },
  role: string,
  weights: Map<string, Float32Array>,
) => Promise<void>;

/** Weights of the block's loss: importance of what the last linear adds to the residual stream, over its mean. */
function lossWeights(block: BlockDescription, importance: ReadonlyMap<string, LayerImportance>, size: number) {
  const last = block.linears.find(({ role }) => role.endsWith("down_proj"));
  const output = last === undefined ? undefined : importance.get(last.weight)?.output;
  const weights = output ?? new Float32Array(size).fill(1);
  const mean = weights.reduce((sum, value) => sum + value, 0) / size;
  return mean > 0 ? weights.map((value) => value / mean) : new Float32Array(size).fill(1);
}

/**
 * Compresses one block so that its output on the compressed model's inputs stays close to the full-precision block's
 * output on the full-precision model's inputs.
 *
 * @param correct Optional change of weights without training, before each factorization.
 * @returns Factors by weight name.
 */
export async function reconstructBlock(
  input: StageIO["reconstruction"]["input"],
  options: ReconstructionOptions,
  context: StageContext,
  stage: string,
  correct?: (engine: BlockEngine, block: BlockDescription) => Promise<WeightCorrection>,
): Promise<Map<string, Factors>> {
  const { model, checkpoint, jobs, importance, calibration } = input;
  const batch = batchWindows(options.batchTokens, calibration, stage);
  const started = performance.now();
  const position = model.blocks.findIndex(({ index }) => index === input.block);
  const block = model.blocks[position];
  await using engine = openBlockEngine(context.runtime, model, checkpoint);
  await using optimizer = await openAdamW(context.runtime);
  const chain: ChainOptions = {
    engine,
    windows: calibration,
    directory: chainDirectory(context.scratch, calibration),
    batch,
    signal: context.signal,
  };
  await dropOtherChains(chain);
  const committed = (each: BlockDescription) => committedWeights(engine, each, input.committed);
  using full = await openChain(chain, "full", position, (each) => engine.weights(each));
  using inputs = await openChain(chain, "compressed", position, committed);
  const vectors = await engine.vectors(block);
  const own = await engine.weights(block);
  using targets = await advanceChain(chain, "full", block, full, { ...vectors, ...own });

  const jobOf = new Map(jobs.map((job) => [job.name, job]));
  const order = compressionOrder(block.linears).filter(({ weight }) => jobOf.has(weight));
  const frozen: Feeds = { ...vectors };
  const weights = new Map<string, Float32Array>();
  for (const { role, weight } of block.linears) {
    const tensor = own[`weight/${role}`];
    if (!jobOf.has(weight)) frozen[`weight/${role}`] = tensor;
    else {
      weights.set(role, await tensor.read() as Float32Array);
      tensor[Symbol.dispose]();
    }
  }
  frozen.weights = context.runtime.tensor(
    "float32",
    lossWeights(block, importance, model.hiddenSize),
    [model.hiddenSize],
  );
  const subject = `block ${block.index}`;
  const run: BlockRun = {
    engine,
    optimizer,
    block,
    options,
    batch,
    inputs,
    targets,
    frozen,
    seed: jobs[0]?.seed ?? 0,
    signal: context.signal,
    report: (step, done, total, loss) =>
      context.emit({ type: "stage-progress", stage: `${stage} ${step}`, subject, done, total, detail: { loss } }),
  };
  const correction = await correct?.(engine, block);
  let factors = new Map<string, Factors>();
  let retuned = 0;
  for (const [index, { role, weight, rows, cols }] of order.entries()) {
    const remaining = order.slice(index).map((linear) => linear.role);
    // Nothing to make up for before the first linear of the first block.
    const untouched = position === 0 && index === 0;
    await correction?.({ inputs, reference: full, frozen }, role, weights);
    if (stepsOf(run, options.retune) > 0 && !untouched) retuned = await retune(run, remaining, weights);
    const job = jobOf.get(weight) as LayerJob;
    using moment = input.wantsInputMoment(job)
      ? await inputMoment({ engine, block, inputs, batch, frozen, weights, signal: context.signal }, role)
      : undefined;
    const found = await input.factorize(job, memoryTensor(weight, [rows, cols], weights.get(role)!), moment);
    factors.set(weight, found);
    weights.delete(role);
    frozen[`weight/${role}`] = await factorWeight(context.runtime, { rows, cols }, found);
  }
  let flipped = 0;
  if (stepsOf(run, options.signs) > 0 && order.length > 0) {
    const tuned = await tuneSigns(run, factors);
    flipped = flippedShare(factors, tuned);
    factors = tuned;
    for (const linear of order) {
      const { role, weight } = linear;
      frozen[`weight/${role}`][Symbol.dispose]();
      frozen[`weight/${role}`] = await factorWeight(context.runtime, linear, factors.get(weight)!);
    }
  }
  using _next = await advanceChain(chain, "compressed", block, inputs, frozen);
  disposeFeeds(frozen);
  for (const kind of ["full", "compressed"] as const) dropChain(chain, kind, position - 1);
  const seconds = (performance.now() - started) / 1000;
  const detail = { retuneLoss: retuned, flipped, seconds };
  context.emit({ type: "stage-progress", stage, subject, done: order.length, total: order.length, detail });
  return factors;
}
