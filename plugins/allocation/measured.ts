/**
 * Allocation `measured`.
 *
 * @module
 */
import * as v from "valibot";
import { defineStage, type LayerShape, type Stage, type StageIO } from "../../pipeline/stream/stage.ts";
import { budgetEntries } from "./budget_options.ts";
import { lossCurve, type LossPoint } from "./loss_curve.ts";
import { proposeRanks } from "./propose.ts";
import { ladderOf, planRanges, type RelativeBounds } from "./ranges.ts";
import { describeRank } from "./reason.ts";
import { type Rung, spendLadders } from "./share.ts";
import {
  estimateTrial,
  noticeUnweighted,
  trialEntries,
  trialKey,
  trialRank,
  tryFactorize,
  weightedNorm,
} from "./trial.ts";
import { openTrialLog, type TrialLog } from "./trial_log.ts";

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
  version: "1.3.0",
  description: "Weighted errors of short runs at three budgets a layer; bits go where one more saves most loss.",
  options,
  choosesCandidates: true,
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
    const others: OtherRung[][] = [];
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
        others.push(await tryCandidates(layer, norm, input, log));
        for (const { method, loss } of others[index]) detail[method] = loss;
      } else {
        curves.push(undefined);
        others.push([]);
      }
      emit({
        type: "stage-progress",
        stage: "measured",
        subject: layer.name,
        done: index + 1,
        total: layers.length,
        detail,
      });
    }
    const ladders = budget.ranges.map((range, index): Rung[] =>
      [...ladderOf(range, (rank) => curves[index]?.(rank) ?? 0), ...others[index]].sort((x, y) => x.cost - y.cost)
    );
    const { rungs, sharers, slope } = spendLadders(layers, ladders, budget.total, budgetOptions.groups);
    const unit = input.budget.unit === "bytes" ? "byte" : "bit";
    return new Map(layers.map((layer, index) => {
      const { rank, method, loss } = rungs[index], curve = curves[index], range = budget.ranges[index];
      if (method !== undefined) {
        const reason = `${method}: loss ${loss.toExponential(2)}, worth more than ${slope.toExponential(2)} a ${unit}`;
        return [layer.name, { rank: 0, method, reason }];
      }
      const price = range.cost(rank + range.step) - range.cost(rank);
      const why = curve === undefined ? "nothing to choose" : `loss ${loss.toExponential(2)}, a ${unit} more saves ` +
        `${((loss - curve(rank + range.step)) / Math.max(1, price)).toExponential(2)}`;
      return [layer.name, { rank, reason: describeRank(range, rank, why, sharers[index]) }];
    }));
  },
});

/** A candidate for a layer, measured. */
type OtherRung = Rung & { readonly method: string };

/** Losses of a layer as each candidate makes it. */
async function tryCandidates(
  layer: LayerShape,
  norm: number,
  { candidates, budget, importance, seed }: StageIO["allocation"]["input"],
  log: TrialLog,
): Promise<OtherRung[]> {
  const choices: OtherRung[] = [];
  for (const [method, candidate] of candidates) {
    const storage = candidate.stores(layer);
    if (storage === undefined) continue;
    const key = [candidate.identity, trialKey(layer, 0, norm, { importance, seed })];
    const [error] = await log.result(key, async () => [(await candidate.make(layer)).weightedError]);
    choices.push({ rank: 0, method, cost: budget.costOf(storage), loss: norm * error });
  }
  return choices;
}

/** Bounds of a layer's bits, in means, where none are given. */
function boundsOf(ratios: readonly number[]): RelativeBounds {
  return { min: ratios[0], max: ratios.at(-1)! };
}
