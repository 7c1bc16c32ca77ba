/**
 * Allocation `channel-pruning`.
 *
 * @module
 */
import * as v from "valibot";
import { defineStage, type Stage } from "../../pipeline/stream/stage.ts";
import { fillBudget } from "./budget.ts";
import { budgetEntries } from "./budget_options.ts";
import { channelImportance } from "./channel_importance.ts";
import { planRanges } from "./ranges.ts";
import { describeRank } from "./reason.ts";
import { estimateTrial, noticeUnweighted, trialEntries, trialRank, tryFactorize } from "./trial.ts";

const options = v.strictObject({
  ...budgetEntries,
  ...trialEntries,
  /** Middle channels that are scored, in the uniform number of them; also the default for `maxBits` in mean bits. */
  factor: v.optional(v.pipe(v.number(), v.gtValue(1), v.maxValue(4)), 1.5),
});

/** Layers without `minBits` keep at least this share of the mean. */
const LEAST_SHARE = 0.5;

/**
 * Every layer is factorized quickly with `factor` times its uniform middle dimension; the channels of all layers compete by the
 * loss that removing them causes, to first order, per sign bit (arXiv 2505.11076, section on non-uniform ratios).
 */
export const channelPruningAllocation: Stage<"allocation", typeof options> = defineStage({
  kind: "allocation",
  scope: "model",
  name: "channel-pruning",
  version: "1.0.0",
  description: "Over-provisioned middle channels of all layers compete by the loss that removing them causes, per bit.",
  options,
  estimate: (layer, { factor, ...trial }) => estimateTrial(layer, factor, trial),
  async run({ layers, bitsPerWeight, importance, weight }, { factor, iterations, sweeps, ...budgetOptions }, context) {
    const { signal, emit } = context;
    const budget = planRanges(layers, bitsPerWeight, budgetOptions, { min: LEAST_SHARE, max: factor });
    noticeUnweighted("channel-pruning", layers, importance, context);
    const scores: (Float64Array | undefined)[] = [];
    for (const [index, layer] of layers.entries()) {
      signal.throwIfAborted();
      const { override, least, most, bitsPerRank } = budget.ranges[index];
      let score: Float64Array | undefined;
      if (override === undefined && least < most) {
        const rank = trialRank(layer, factor * budget.freeBits);
        const measured = importance.get(layer.name);
        const factors = await tryFactorize(layer, rank, weight(layer.name), measured, { iterations, sweeps }, context);
        score = channelImportance(factors, measured).map((loss) => loss / bitsPerRank).sort().reverse();
      }
      scores.push(score);
      emit({
        type: "stage-progress",
        stage: "channel-pruning",
        subject: layer.name,
        done: index + 1,
        total: layers.length,
        ...(score === undefined ? {} : { detail: { channels: score.length, best: score[0], worst: score.at(-1)! } }),
      });
    }
    const { ranks, threshold } = fillBudget(budget, (index, from, to) => mean(scores[index]!.subarray(from, to)));
    return new Map(layers.map((layer, index) => {
      const score = scores[index];
      const why = score === undefined
        ? "nothing to choose"
        : `${score.filter((each) => each >= threshold).length} of ${score.length} channels are worth ` +
          `${threshold.toExponential(2)} a bit`;
      return [layer.name, { rank: ranks[index], reason: describeRank(budget.ranges[index], ranks[index], why) }];
    }));
  },
});

function mean(values: Float64Array): number {
  return values.length === 0 ? 0 : values.reduce((total, value) => total + value, 0) / values.length;
}
