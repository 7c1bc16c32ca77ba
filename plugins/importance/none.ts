/**
 * No importance: every weight counts the same.
 *
 * @module
 */
import * as v from "valibot";
import { defineStage } from "../../pipeline/stream/stage.ts";

/** Importance one everywhere; needs no calibration text. */
export const noImportance = defineStage({
  kind: "importance",
  scope: "model",
  name: "none",
  version: "1.0.0",
  description: "Every weight counts the same; needs no calibration text.",
  options: v.strictObject({}),
  estimate: () => ({ peakBytes: 0, flops: 0 }),
  run: () => Promise.resolve(new Map()),
});
