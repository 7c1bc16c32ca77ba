/**
 * The same bits for every layer.
 *
 * @module
 */
import * as v from "valibot";
import { rankForBits } from "../../pipeline/plan/bits.ts";
import { type Allocated, defineStage, type Stage, type StageIO } from "../../pipeline/stream/stage.ts";
import { budgetEntries } from "./budget_options.ts";
import { planRanges } from "./ranges.ts";
import { describeRank } from "./reason.ts";
import { spendEqually } from "./spend.ts";

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
  version: "1.1.0",
  description: "The same sign bits per weight for every layer.",
  options,
  estimate: () => ({ peakBytes: 0, flops: 0 }),
  propose: (input, options) => ({ ranks: allocate(input, options), final: true }),
  run: (input, options) => Promise.resolve(allocate(input, options)),
});

function allocate(
  { layers, bitsPerWeight, budget }: Pick<StageIO["allocation"]["input"], "layers" | "bitsPerWeight" | "budget">,
  { step, overrides }: v.InferOutput<typeof options>,
): Allocated {
  if (budget.unit === "sign bits" && step === 1 && Object.keys(overrides).length === 0) {
    const reason = `uniform ${bitsPerWeight} bits`;
    return new Map(layers.map((layer) => [layer.name, { rank: rankForBits(layer, bitsPerWeight), reason }]));
  }
  const spend = planRanges(layers, bitsPerWeight, { step, overrides }, BOUNDS, budget);
  const ranks = spendEqually(spend);
  return new Map(layers.map(({ name }, index) => {
    const reason = describeRank(spend.ranges[index], ranks[index], "equal share");
    return [name, { rank: ranks[index], reason }];
  }));
}
