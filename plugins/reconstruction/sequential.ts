/**
 * Reconstruction `sequential`.
 *
 * @module
 */
import * as v from "valibot";
import { reconstructBlock } from "../../pipeline/calibrate/reconstruct.ts";
import { defineStage, type Stage } from "../../pipeline/stream/stage.ts";

const options = v.strictObject({
  /** Most calibration tokens that go through the blocks, in whole windows: the text's first, evenly chosen. */
  tokens: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1)), 2 ** 19),
  /** Tokens a run, in whole windows. */
  batchTokens: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1)), 2048),
  /** Keep the continuous latents for a distillation. */
  latents: v.optional(v.boolean(), true),
});

/** No training. */
const NONE = { epochs: 0, tokens: 0 };

/**
 * Changes no weight: layers are factorized in the order of the model, and those whose factorization wants it get the second moment of the
 * inputs that they have in the model as compressed so far.
 */
export const sequential: Stage<"reconstruction", typeof options> = defineStage({
  kind: "reconstruction",
  scope: "block",
  name: "sequential",
  version: "1.2.0",
  description:
    "Measures each layer's inputs in the model as compressed so far, for factorizations that want them; no training.",
  options,
  // the block's weights, and the second moment twice
  estimate: ({ rows, cols }) => ({ peakBytes: 4 * (14 * rows * cols + 2 * cols * cols), flops: 0 }),
  calibrationTokens: ({ tokens }) => tokens,
  run: (input, { batchTokens, latents }, context) =>
    reconstructBlock(
      input,
      { retune: NONE, retuneRate: 1, signs: NONE, signRate: 1, scaleRate: 1, batchTokens, latents, relative: true },
      context,
      "sequential",
    ),
});
