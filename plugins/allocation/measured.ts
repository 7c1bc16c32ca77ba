/**
 * Allocation `measured`.
 *
 * @module
 */
import * as v from "valibot";
import { defineStage, type Stage } from "../../pipeline/stream/stage.ts";
import { budgetEntries } from "./budget_options.ts";
import { lossCurve, type LossPoint } from "./loss_curve.ts";
import { proposeRanks } from "./propose.ts";
import { planRanges, type RelativeBounds, spendRanks } from "./ranges.ts";
import { describeRank } from "./reason.ts";
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

const Ratio = v.pipe(v.number(), v.gtValue(0), v.maxValue(4));

const options = v.strictObject({
  ...budgetEntries,
  ...trialEntries,
  /** Budgets at which every layer is measured, in means; the first and the last bound a layer's bits by default. */
  ratios: v.optional(
    v.pipe(
      v.array(Ratio),
      v.minLength(2),
      v.check((all) => all.every((ratio, i) => i === 0 || ratio > all[i - 1]), "must rise"),
    ),
    () => [0.5, 1, 1.75],
  ),
});

/**
 * The weighted error ‖D_o^½ (W − Ŵ) D_i^½‖² of every layer at three budgets, as a curve over its bits; then all layers get the
 * bits at which one more bit lowers it by the same.
 */
export const measuredAllocation: Stage<"allocation", typeof options> = defineStage({
  kind: "allocation",
  scope: "model",
  name: "measured",
  version: "1.2.0",
  description: "Weighted errors of short runs at three budgets a layer; bits go where one more saves most loss.",
  options,
  estimate(layer, { ratios, ...trial }) {
    const { peakBytes } = estimateTrial(layer, ratios.at(-1)!, trial);
    return {
      peakBytes,
      flops: ratios.reduce((total, ratio) => total + (estimateTrial(layer, ratio, trial).flops ?? 0), 0),
    };
  },
  propose: (input, { ratios, ...options }) => proposeRanks(input, options, boundsOf(ratios)),
  async run(input, { ratios, iterations, sweeps, ...budgetOptions }, context) {
    const { layers, bitsPerWeight, importance, weight } = input, { signal, emit } = context;
    const budget = planRanges(layers, bitsPerWeight, budgetOptions, boundsOf(ratios), input.budget);
    noticeUnweighted("measured", layers, importance, context);
    const log = await openTrialLog(context.scratch);
    const curves: (((rank: number) => number) | undefined)[] = [];
    for (const [index, layer] of layers.entries()) {
      signal.throwIfAborted();
      const { override, least, most } = budget.ranges[index];
      const detail: Record<string, number> = {};
      if (override === undefined && least < most) {
        const norm = await weightedNorm(layer, weight(layer.name), importance.get(layer.name), signal);
        const points: LossPoint[] = [{ rank: 0, loss: norm }];
        for (const ratio of ratios) {
          const rank = trialRank(layer, ratio * budget.freeBits, budgetOptions.step);
          if (rank <= points.at(-1)!.rank) continue;
          const [error] = await log.result(
            trialKey(layer, rank, norm, input, { iterations, sweeps }),
            async () => [(await tryFactorize(layer, rank, input, { iterations, sweeps }, context)).weightedError],
          );
          points.push({ rank, loss: norm * error });
          detail[`loss${rank}`] = norm * error;
        }
        curves.push(lossCurve(points));
      } else curves.push(undefined);
      emit({
        type: "stage-progress",
        stage: "measured",
        subject: layer.name,
        done: index + 1,
        total: layers.length,
        detail,
      });
    }
    const { ranks } = spendRanks(budget, (index, rank) => curves[index]?.(rank) ?? 0);
    return new Map(layers.map((layer, index) => {
      const curve = curves[index], range = budget.ranges[index], rank = ranks[index];
      const why = curve === undefined
        ? "nothing to choose"
        : `loss ${curve(rank).toExponential(2)}, a bit more saves ` +
          `${((curve(rank) - curve(rank + range.step)) / (range.step * range.bitsPerRank)).toExponential(2)}`;
      return [layer.name, { rank, reason: describeRank(range, rank, why) }];
    }));
  },
});

/** Bounds of a layer's bits, in means, where none are given. */
function boundsOf(ratios: readonly number[]): RelativeBounds {
  return { min: ratios[0], max: ratios.at(-1)! };
}
