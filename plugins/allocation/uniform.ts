/**
 * The same bits for every layer.
 *
 * @module
 */
import * as v from "valibot";
import { rankForBits } from "../../pipeline/plan/bits.ts";
import { defineStage } from "../../pipeline/stream/stage.ts";

/**
 * k = floor(bits·n·m/(n+m)) for every layer. It is not clamped at min(n,m): a wide MLP at 2 bits has a middle dimension
 * above its smaller side, and clamping would silently cap it below the budget.
 */
export const uniformAllocation = defineStage({
  kind: "allocation",
  scope: "model",
  name: "uniform",
  version: "1.0.0",
  description: "The same sign bits per weight for every layer.",
  options: v.strictObject({}),
  estimate: () => ({ peakBytes: 0, flops: 0 }),
  run: ({ layers, bitsPerWeight }) =>
    Promise.resolve(
      new Map(layers.map((layer) => [
        layer.name,
        { rank: rankForBits(layer, bitsPerWeight), reason: `uniform ${bitsPerWeight} bits` },
      ])),
    ),
});
