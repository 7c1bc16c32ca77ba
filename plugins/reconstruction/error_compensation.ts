/**
 * Reconstruction `error-compensation`.
 *
 * @module
 */
import * as v from "valibot";
import { batchWindows } from "../../pipeline/calibrate/batch_size.ts";
import { errorCompensation } from "../../pipeline/calibrate/error_compensation.ts";
import { reconstructBlock } from "../../pipeline/calibrate/reconstruct.ts";
import { defineStage, type Stage } from "../../pipeline/stream/stage.ts";

const options = v.strictObject({
  /** Share of the full correction: all of it overfits to the calibration text. */
  strength: v.optional(v.pipe(v.number(), v.minValue(0), v.maxValue(1)), 0.5),
  /** Ridge on the inputs' covariance, in each feature's own mean square. */
  ridge: v.optional(v.pipe(v.number(), v.gtValue(0), v.maxValue(10)), 0.01),
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
 * The gradient-free reconstruction: before each linear is factorized its weight is corrected in closed form for the
 * difference between the inputs it had in the full-precision model and those it gets now (QEP, arXiv 2504.09629).
 */
export const errorCompensationStage: Stage<"reconstruction", typeof options> = defineStage({
  kind: "reconstruction",
  scope: "block",
  name: "error-compensation",
  version: "1.2.0",
  description: "Corrects each weight in closed form for the error of its inputs before it is factorized; no gradients.",
  options,
  // two covariances and the solver's copies
  estimate: ({ rows, cols }) => ({ peakBytes: 4 * (14 * rows * cols + 8 * cols * cols) }),
  calibrationTokens: ({ tokens }) => tokens,
  run: (input, { strength, ridge, batchTokens, latents }, context) =>
    reconstructBlock(
      input,
      { retune: NONE, retuneRate: 1, signs: NONE, signRate: 1, scaleRate: 1, batchTokens, latents, relative: true },
      context,
      "error-compensation",
      (engine, block) => {
        const batch = batchWindows(batchTokens, input.calibration, "error-compensation");
        return Promise.resolve(errorCompensation(engine, block, { strength, ridge, batch }));
      },
    ),
});
