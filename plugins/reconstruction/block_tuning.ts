/**
 * Reconstruction `block-tuning`.
 *
 * @module
 */
import * as v from "valibot";
import { tuningBytes } from "../../pipeline/calibrate/memory.ts";
import { reconstructBlock } from "../../pipeline/calibrate/reconstruct.ts";
import { defineStage, type Stage } from "../../pipeline/stream/stage.ts";

const rate = (otherwise: number) => v.optional(v.pipe(v.number(), v.gtValue(0), v.maxValue(10)), otherwise);
const passes = v.pipe(v.number(), v.minValue(0), v.finite());

const tokens = (otherwise: number) => v.optional(v.pipe(v.number(), v.integer(), v.minValue(1)), otherwise);

const options = v.strictObject({
  /** Preset of `retuneTokens`. */
  effort: v.optional(v.picklist(["fast", "balanced", "best"]), "balanced"),
  /** Most passes over the calibration windows for the retuning of what is still dense, before every linear. */
  retuneEpochs: v.optional(passes, 2),
  /** Most tokens of each retuning, repetitions counted. */
  retuneTokens: v.optional(passes),
  /** Learning rate of dense weights. Ten times what peers use, and worth it. */
  retuneRate: rate(1e-3),
  /** Passes over the windows for signs and scales of the whole block, once it is factorized. A distillation afterwards makes them unnecessary. */
  signEpochs: v.optional(passes, 0),
  /** Learning rate of latents, in unit scale. */
  signRate: rate(2e-2),
  /** Learning rate of scales, in means of their magnitude. */
  scaleRate: rate(3e-4),
  /** Most calibration tokens that go through the blocks, in whole windows: the text's first, evenly chosen. */
  tokens: tokens(2 ** 19),
  /** Tokens a step, in whole windows. */
  batchTokens: tokens(2048),
  /** Count each token's error relative to the size of its target, so that tokens with massive activations are not all that counts. */
  relative: v.optional(v.boolean(), true),
  /** Keep the continuous latents for a distillation. */
  latents: v.optional(v.boolean(), true),
});

/** Tokens of a retuning by effort: 16, 64 and 128 steps. */
const RETUNE_TOKENS = { fast: 2 ** 15, balanced: 2 ** 17, best: 2 ** 18 } as const;

/**
 * Before each linear of a block is factorized, the weights that are still dense are trained so that the block's output
 * stays that of the full-precision model (targets on the full-precision chain, inputs from the compressed one, errors
 * weighted by diagonal Fisher information); afterwards signs are tuned by straight-through on unit-scale latents.
 */
export const blockTuning: Stage<"reconstruction", typeof options> = defineStage({
  kind: "reconstruction",
  scope: "block",
  name: "block-tuning",
  version: "1.2.0",
  description:
    "Retunes dense weights before every linear, then optionally signs and scales, against the block's output.",
  options,
  estimate: ({ rows, cols }, { effort, retuneTokens = RETUNE_TOKENS[effort] }) => ({
    // a block has about a dozen such linears; weights, gradients and two moments of each
    peakBytes: 12 * 4 * 4 * rows * cols,
    // seven retunings; forward, gradients of inputs, and on average half of those of weights: 5 a weight and token
    flops: 7 * 5 * rows * cols * retuneTokens,
  }),
  calibrationTokens: (options) => options.tokens,
  peakBytesOf: tuningBytes,
  run: (
    input,
    { effort, retuneEpochs, retuneTokens = RETUNE_TOKENS[effort], signEpochs, tokens: _, ...rest },
    context,
  ) =>
    reconstructBlock(
      input,
      {
        ...rest,
        retune: { epochs: retuneEpochs, tokens: retuneTokens },
        signs: { epochs: signEpochs, tokens: Infinity },
      },
      context,
      "block-tuning",
    ),
});
