/**
 * Allocation `channel-pruning`.
 *
 * @module
 */
import * as v from "valibot";
import { defineStage, type Stage } from "../../pipeline/stream/stage.ts";
import { budgetEntries } from "./budget_options.ts";
import { channelImportance, remainingShare } from "./channel_importance.ts";
import { proposeRanks } from "./propose.ts";
import { planRanges } from "./ranges.ts";
import { describeRank } from "./reason.ts";
import { spendRanks } from "./spend.ts";
import {
  estimateTrial,
  noticeUnweighted,
  trialEntries,
  trialKey,
  trialRank,
  tryFactorize,
  weightedNorm,
} from "./trial.ts";
import { openTrialLog } from "./trial_log.ts";

const options = v.strictObject({
  ...budgetEntries,
  ...trialEntries,
  /** Middle channels that are scored, in the uniform number of them; also the default for `maxBits` in mean bits. */
  factor: v.optional(v.pipe(v.number(), v.gtValue(1), v.maxValue(4)), 1.5),
  /** Count only what the refactorization won't make up for, see {@linkcode remainingShare}, instead of the whole importance. */
  refactorized: v.optional(v.boolean(), false),
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
  version: "1.3.0",
  description: "Over-provisioned middle channels of all layers compete by the loss that removing them causes, per bit.",
  options,
  estimate: (layer, { factor, ...trial }) => estimateTrial(layer, factor, trial),
  propose: (input, { factor, refactorized: _, ...options }) =>
    proposeRanks(input, options, { min: LEAST_SHARE, max: factor }),
  async run(input, { factor, refactorized, iterations, sweeps, ...budgetOptions }, context) {
    const { layers, bitsPerWeight, importance, weight } = input, { signal, emit } = context;
    const bounds = { min: LEAST_SHARE, max: factor };
    const budget = planRanges(layers, bitsPerWeight, budgetOptions, bounds, input.budget);
    noticeUnweighted("channel-pruning", layers, importance, context);
    const log = await openTrialLog(context.scratch);
    const scores: (Float64Array | undefined)[] = [];
    for (const [index, layer] of layers.entries()) {
      signal.throwIfAborted();
      const { override, least, most } = budget.ranges[index];
      let score: Float64Array | undefined;
      if (override === undefined && least < most) {
        const rank = trialRank(layer, factor * budget.freeBits, budgetOptions.step);
        const measured = importance.get(layer.name);
        const norm = await weightedNorm(layer, weight(layer.name), measured, signal);
        const key = ["channels", trialKey(layer, rank, norm, input, { iterations, sweeps })];
        const [error, ...scored] = await log.result(key, async () => {
          const factors = await tryFactorize(layer, rank, input, { iterations, sweeps }, context);
          return [factors.weightedError, ...channelImportance(factors, measured).sort().reverse()];
        });
        const share = refactorized ? remainingShare(error) : 1;
        score = Float64Array.from(scored, (each) => share * each);
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
    const losses = scores.map((score) => score && lossesBelow(score));
    const lossAt = (index: number, rank: number) => {
      const loss = losses[index];
      return loss === undefined ? 0 : loss[Math.min(rank, loss.length - 1)];
    };
    const { ranks, sharers, slope } = spendRanks(budget, lossAt, { layers, groups: budgetOptions.groups });
    return new Map(layers.map((layer, index) => {
      const score = scores[index], range = budget.ranges[index];
      const why = score === undefined
        ? "nothing to choose"
        : `${ranks[index]} of ${score.length} channels are worth ${slope.toExponential(2)} a ` +
          (input.budget.unit === "bytes" ? "byte" : "bit");
      return [layer.name, { rank: ranks[index], reason: describeRank(range, ranks[index], why, sharers[index]) }];
    }));
  },
});

/** What is lost where only the first `k` channels are kept, by k: suffix sums of falling scores. */
function lossesBelow(scores: Float64Array): Float64Array {
  const losses = new Float64Array(scores.length + 1);
  for (let k = scores.length - 1; k >= 0; k--) losses[k] = losses[k + 1] + scores[k];
  return losses;
}
