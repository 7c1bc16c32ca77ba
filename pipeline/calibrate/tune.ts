/**
 * Training of one block against its full-precision output.
 *
 * @module
 */
import type { Runtime, Session, Tensor } from "../../kernels/runtime/types.ts";
import type { ActivationSource } from "./activations.ts";
import type { AdamW, TrainedVector } from "./adamw.ts";
import { disposeFeeds, emptyOutputs, type Feeds, feedsFor, readScalar } from "./engine.ts";
import { cosineFactor } from "./schedule.ts";
import { shuffledBatches } from "./shuffle.ts";

/** One training of a block. */
export interface TuneOptions {
  readonly runtime: Runtime;
  readonly optimizer: AdamW;
  /** The session of kind `tune`. */
  readonly session: Session;
  /** What stays as it is: frozen weights, norms, biases, and `weights` of the loss `(hidden,)`. */
  readonly feeds: Feeds;
  /** What is trained, by input name: `dense`, `latents`, `scales`. Its tensors are replaced. */
  readonly trained: Readonly<Record<string, TrainedVector>>;
  readonly inputs: ActivationSource;
  readonly targets: ActivationSource;
  /** Windows a step; the session's. */
  readonly batch: number;
  /** More than 0. */
  readonly steps: number;
  readonly seed: number;
  readonly signal?: AbortSignal;
  readonly progress?: (step: number, steps: number, loss: number) => void;
}

/** Loss at the first step and the mean over the last few. */
export interface TuneResult {
  readonly first: number;
  readonly last: number;
}

/** Steps whose losses are averaged for the result. */
const LAST_STEPS = 4;

/** Trains `trained` with AdamW under a cosine schedule. */
export async function tuneBlock(options: TuneOptions): Promise<TuneResult> {
  const { session, inputs, targets, batch, steps, trained, signal } = options;
  const batches = shuffledBatches(inputs.windows, batch, options.seed);
  const into = emptyOutputs(options.runtime, session);
  let first = 0, last = 0;
  for (let step = 0; step < steps; step++) {
    signal?.throwIfAborted();
    const indices = batches(step);
    using x: Tensor = await inputs.tensor(indices);
    using target: Tensor = await targets.tensor(indices);
    const parameters = Object.fromEntries(Object.entries(trained).map(([name, { parameter }]) => [name, parameter]));
    await session.run(feedsFor(session, options.feeds, parameters, { x, target }), { into });
    const loss = await readScalar(into.loss);
    const factor = cosineFactor(step, steps);
    for (const [name, vector] of Object.entries(trained)) {
      await options.optimizer.step(vector, into[`${name}_gradient`], step, factor);
    }
    if (step === 0) first = loss;
    if (step >= steps - LAST_STEPS) last += loss / Math.min(LAST_STEPS, steps);
    options.progress?.(step + 1, steps, loss);
  }
  disposeFeeds(into);
  await options.optimizer.rest();
  return { first, last };
}
