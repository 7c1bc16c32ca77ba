/**
 * The same bits for every layer.
 *
 * @module
 */
import * as v from "valibot";
import { rankForBits } from "../../pipeline/plan/bits.ts";
import { defineStage, type Stage } from "../../pipeline/stream/stage.ts";
import { fillBudget } from "./budget.ts";
import { budgetEntries } from "./budget_options.ts";
import { planRanges } from "./ranges.ts";
import { describeRank } from "./reason.ts";

const options = v.strictObject({
  step: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1)), 1),
  overrides: budgetEntries.overrides,
});

/** Where rounding or overrides move bits, layers stay this close to the mean of those without an override, if they can. */
const BOUNDS = { min: 0.9, max: 1.25 };

/**
 * k = floor(bits·n·m/(n+m)) for every layer. It is not clamped at min(n,m): a wide MLP at 2 bits has a middle dimension
 * above its smaller side, and clamping would silently cap it below the budget. With overrides or a step the layers
 * without an override share what is left as equally as steps allow.
 */
export const uniformAllocation: Stage<"allocation", typeof options> = defineStage({
  kind: "allocation",
  scope: "model",
  name: "uniform",
  version: "1.0.0",
  description: "The same sign bits per weight for every layer.",
  options,
  estimate: () => ({ peakBytes: 0, flops: 0 }),
  run({ layers, bitsPerWeight }, { step, overrides }) {
    if (step === 1 && Object.keys(overrides).length === 0) {
      const reason = `uniform ${bitsPerWeight} bits`;
      return Promise.resolve(
        new Map(layers.map((layer) => [layer.name, { rank: rankForBits(layer, bitsPerWeight), reason }])),
      );
    }
    const budget = planRanges(layers, bitsPerWeight, { step, overrides }, BOUNDS);
    const { ranks } = fillBudget(budget, () => 0);
    return Promise.resolve(
      new Map(layers.map(({ name }, index) => {
        const reason = describeRank(budget.ranges[index], ranks[index], "equal share");
        return [name, { rank: ranks[index], reason }];
      })),
    );
  },
});
