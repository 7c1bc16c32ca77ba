/**
 * Importance `activation`.
 *
 * @module
 */
import * as v from "valibot";
import { openBlockEngine } from "../../pipeline/calibrate/engine.ts";
import { activationStatistics } from "../../pipeline/calibrate/importance.ts";
import { CPU_BYTES } from "../../pipeline/calibrate/device_memory.ts";
import { importanceBytes } from "../../pipeline/calibrate/memory.ts";
import { importanceFlops } from "../../pipeline/calibrate/flops.ts";
import { defineStage, type Stage } from "../../pipeline/stream/stage.ts";
import { shrinkAll } from "./shrinkage.ts";

const options = v.strictObject({
  /** Most calibration tokens, in whole windows: the text's first, evenly chosen. */
  tokens: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1)), 2 ** 19),
  /** Share of the mean that every entry is moved by. */
  shrinkage: v.optional(v.pipe(v.number(), v.minValue(0), v.maxValue(1)), 0.2),
  /** Tokens whose norm is above this quantile of their window are scaled down to it; 1 clips none. */
  clipQuantile: v.optional(v.pipe(v.number(), v.gtValue(0), v.maxValue(1)), 0.999),
  /** Tokens a run, in whole windows. */
  batchTokens: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1)), 2048),
  /** Bytes of block inputs kept while a chunk of windows goes through the model. Default 256 MiB, on a GPU half of the recipe's `deviceMemory`. */
  storeBytes: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1))),
});

/** E[x²] of every linear's input on calibration windows; outputs count equally. */
export const activationImportance: Stage<"importance", typeof options> = defineStage({
  kind: "importance",
  scope: "model",
  name: "activation",
  version: "1.2.0",
  description: "E[x²] of inputs from calibration text; forward only.",
  options,
  // the block's weights and their products with a batch, beside the stored inputs
  estimate: ({ rows, cols }, { storeBytes = CPU_BYTES["block inputs"] }) => ({
    peakBytes: storeBytes + 16 * 4 * rows * cols,
  }),
  calibrationTokens: ({ tokens }) => tokens,
  peakBytesOf: (run, { batchTokens, storeBytes = CPU_BYTES["block inputs"] }) =>
    importanceBytes(run, { batchTokens, storeBytes, backward: false }),
  flopsOf: (run) => importanceFlops(run, { backward: false }),
  async run({ checkpoint, model, calibration }, { shrinkage, tokens: _, ...rest }, { runtime, signal, emit }) {
    await using engine = openBlockEngine(runtime, model, checkpoint);
    const { layers } = await activationStatistics(engine, calibration, {
      ...rest,
      signal,
      progress: (done, total) =>
        emit({ type: "stage-progress", stage: "activation", subject: model.architecture, done, total }),
    });
    return shrinkAll(layers, shrinkage);
  },
});
