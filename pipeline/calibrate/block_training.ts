/**
 * The two trainings inside a block under reconstruction: of its dense weights, and of signs and scales.
 *
 * @module
 */
import type { BlockDescription } from "../model/types.ts";
import type { Factors } from "../stream/stage.ts";
import type { ActivationSource } from "./activations.ts";
import { type AdamW, disposeVector, trainedVector } from "./adamw.ts";
import { type TrainingLength, trainingSteps } from "./batch_size.ts";
import { blockLayout, type LinearTreatment } from "./block_graph.ts";
import { FACTOR_VECTORS, factorVectors, fixedFeeds, trainedFactors, treatments } from "./block_state.ts";
import { type BlockEngine, disposeFeeds, type Feeds } from "./engine.ts";
import { freeArrays } from "./move_array.ts";
import { cutSegments, joinSegments } from "./parameters.ts";
import { tuneBlock } from "./tune.ts";

/** What a reconstruction does; every part can be switched off. */
export interface ReconstructionOptions {
  /** Of the retuning of dense weights before each factorization; 0 leaves them. */
  readonly retune: TrainingLength;
  readonly retuneRate: number;
  /** Of the tuning of signs and scales once the block is factorized; 0 leaves them. */
  readonly signs: TrainingLength;
  readonly signRate: number;
  /** In means of each scale vector's magnitude. */
  readonly scaleRate: number;
  /** Tokens a step, in whole windows. */
  readonly batchTokens: number;
  /** Keep latents for a later distillation. */
  readonly latents: boolean;
  /** Errors relative to the size of each token, see `BlockGraphOptions.relative`. */
  readonly relative: boolean;
}

/** A block under reconstruction. */
export interface BlockRun {
  readonly engine: BlockEngine;
  readonly optimizer: AdamW;
  readonly block: BlockDescription;
  readonly options: ReconstructionOptions;
  /** Windows a step. */
  readonly batch: number;
  readonly inputs: ActivationSource;
  readonly targets: ActivationSource;
  /** Norms, biases, the loss weights, and `weight/ROLE` of factorized or kept linears. */
  readonly frozen: Feeds;
  readonly seed: number;
  readonly signal: AbortSignal;
  readonly report: (step: string, done: number, total: number, loss: number) => void;
}

/** Steps of a training of the block. */
export function stepsOf({ inputs, batch }: BlockRun, length: TrainingLength): number {
  return trainingSteps(length, inputs.windows, batch, inputs.tokens);
}

/** Trains the weights of `roles` in place. */
export async function retune(
  run: BlockRun,
  roles: readonly string[],
  weights: Map<string, Float32Array>,
): Promise<number> {
  const { engine, block, options, inputs } = run;
  const linears = new Map<string, LinearTreatment>(block.linears.map(({ role }) => [
    role,
    roles.includes(role) ? "trained" : "frozen",
  ]));
  const { dense: segments } = blockLayout(block, linears);
  const { relative } = options;
  const kind = { kind: "tune", batch: run.batch, tokens: inputs.tokens, linears, relative } as const;
  const flat = joinSegments(segments, weights);
  freeArrays(segments.map(({ name }) => weights.get(name)!));
  const vector = trainedVector(engine.runtime, flat, Float32Array.of(options.retuneRate));
  const { last } = await tuneBlock({
    ...run,
    runtime: engine.runtime,
    session: await engine.session(block, kind),
    feeds: run.frozen,
    trained: { dense: vector },
    steps: stepsOf(run, options.retune),
    seed: run.seed + roles.length,
    progress: (step, steps, loss) => run.report("retune", step, steps, loss),
  });
  const trained = await vector.parameter.read() as Float32Array;
  for (const [role, piece] of cutSegments(segments, trained)) weights.set(role, piece);
  disposeVector(vector);
  await engine.drop(block, kind);
  return last;
}

/** Trains signs and scales of all factorized linears together. */
export async function tuneSigns(
  run: BlockRun,
  factors: ReadonlyMap<string, Factors>,
): Promise<Map<string, Factors>> {
  const { engine, block, options, inputs } = run;
  const linears = treatments(block, factors);
  const { relative } = options;
  const kind = { kind: "tune", batch: run.batch, tokens: inputs.tokens, linears, relative } as const;
  const vectors = factorVectors(engine.runtime, block, factors, { signs: options.signRate, scales: options.scaleRate });
  const fixed = fixedFeeds(engine.runtime, block, factors);
  await tuneBlock({
    ...run,
    runtime: engine.runtime,
    session: await engine.session(block, kind),
    feeds: { ...run.frozen, ...fixed },
    trained: Object.fromEntries(
      FACTOR_VECTORS.filter((name) => vectors[name].parameter.shape[0] > 0).map((name) => [name, vectors[name]]),
    ),
    steps: stepsOf(run, options.signs),
    seed: run.seed + 97,
    progress: (step, steps, loss) => run.report("signs", step, steps, loss),
  });
  const tuned = await trainedFactors(block, factors, vectors, options);
  disposeFeeds(fixed);
  disposeVector(vectors.latents);
  disposeVector(vectors.scales);
  await engine.drop(block, kind);
  return tuned;
}
