/**
 * Distillation `logits`.
 *
 * @module
 */
import * as v from "valibot";
import { windowsPerBatch } from "../../pipeline/calibrate/batch_size.ts";
import { bytesFor, CPU_BYTES } from "../../pipeline/calibrate/device_memory.ts";
import { distilModel } from "../../pipeline/calibrate/distil.ts";
import { distillationFlops } from "../../pipeline/calibrate/flops.ts";
import { distillationBytes } from "../../pipeline/calibrate/memory.ts";
import { TEACHER_FILE_BYTES, teacherBytesOf, teacherWindows } from "../../pipeline/calibrate/teacher.ts";
import { defineStage, type Stage } from "../../pipeline/stream/stage.ts";

const rate = () => v.optional(v.pipe(v.number(), v.minValue(0), v.maxValue(10)));

const options = v.strictObject({
  /** Preset of `tokens`. */
  effort: v.optional(v.picklist(["fast", "balanced", "best"]), "balanced"),
  /** Most passes over the calibration windows. */
  epochs: v.optional(v.pipe(v.number(), v.minValue(0), v.finite()), 8),
  /** Most training tokens, repetitions counted. */
  tokens: v.optional(v.pipe(v.number(), v.minValue(0), v.finite())),
  /** Learning rate of latents, in unit scale. Default by the number of steps and the bits of the layers, see `defaultRates`. */
  signRate: rate(),
  /** Learning rate of scales, in means of their magnitude. Default half of what is the default for latents. */
  scaleRate: rate(),
  /** `own`: the rate of a scale is relative to its own magnitude as training starts (a tenth of the mean at least), not to the mean. */
  scaleRateOf: v.optional(v.picklist(["mean", "own"])),
  /** Share of the mean of gradients that a step keeps (β₁ of AdamW). Less is better in short trainings, whose signs turn late otherwise. */
  momentum: v.optional(v.pipe(v.number(), v.minValue(0), v.ltValue(1)), 0.9),
  /** Tokens a step, in whole windows, two at least. */
  batchTokens: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1)), 1024),
  /** Bytes of latents, scales and moments that may stay on the device; the rest is kept in files. Default 1 GiB, on a GPU a quarter of the recipe's `deviceMemory`. */
  residentBytes: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0))),
  /**
   * Bytes of the teacher's hidden states at once: where those of all windows take more, they are computed for the next steps
   * only, in every pass. Default 1 GiB, in a file, on a GPU an eighth of the recipe's `deviceMemory`.
   */
  teacherBytes: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0))),
  /** Seconds between saves, from which an interrupted run goes on. */
  saveSeconds: v.optional(v.pipe(v.number(), v.minValue(0)), 120),
});

/** Training tokens by effort: 128, 512 and 1536 steps. */
const TOKENS = { fast: 2 ** 17, balanced: 2 ** 19, best: 3 * 2 ** 19 } as const;

/**
 * Trains signs and scales of the whole compressed model by KL divergence of its next-token distribution from the
 * full-precision model's: the step that brings more than all block-wise ones together. The teacher is kept as its last
 * hidden states, one vector a token, of the windows that come next; blocks are recomputed in the backward pass.
 */
export const logitDistillation: Stage<"distillation", typeof options> = defineStage({
  kind: "distillation",
  scope: "model",
  name: "logits",
  version: "1.2.0",
  description: "Trains signs and scales of the whole model by KL divergence from the full-precision logits.",
  options,
  estimate: (
    { rows, cols, rank },
    { residentBytes = CPU_BYTES["training state"] },
  ) => ({
    // state, and the values and gradients of one block of about a dozen such layers
    peakBytes: residentBytes + 12 * 4 * 4 * rank * (rows + cols),
  }),
  keptTokens: (shape, device, { batchTokens, teacherBytes = teacherBytesOf(device) }) => {
    const batch = windowsPerBatch(batchTokens, shape.windows, shape.tokens, 2);
    return shape.tokens * teacherWindows(shape, batch, teacherBytes);
  },
  peakBytesOf: (run, { batchTokens, residentBytes = CPU_BYTES["training state"], teacherBytes = TEACHER_FILE_BYTES }) =>
    distillationBytes(run, { batchTokens, residentBytes, teacherBytes }),
  // a GPU may keep more of the teacher than a file on the CPU: never less than what is counted
  flopsOf: (run, { effort, epochs, tokens = TOKENS[effort], batchTokens, teacherBytes = TEACHER_FILE_BYTES }) =>
    distillationFlops(run, { length: { epochs, tokens }, batchTokens, teacherBytes }),
  run(input, { effort, epochs, tokens = TOKENS[effort], signRate, scaleRate, scaleRateOf, ...rest }, context) {
    const residentBytes = rest.residentBytes ?? bytesFor(context.runtime, "training state");
    const teacherBytes = rest.teacherBytes ?? teacherBytesOf(context.runtime);
    const rates = { signs: signRate, scales: scaleRate, scalesOf: scaleRateOf };
    const length = { epochs, tokens };
    return distilModel(input, { ...rest, residentBytes, teacherBytes, length, rates }, context, "logits");
  },
});
