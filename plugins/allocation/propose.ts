/**
 * What allocations that measure can say before they do.
 *
 * @module
 */
import type { Proposal, StageIO } from "../../pipeline/stream/stage.ts";
import type { BudgetOptions } from "./budget_options.ts";
import { planRanges, type RelativeBounds } from "./ranges.ts";
import { describeRank } from "./reason.ts";
import { spendEqually } from "./spend.ts";

/**
 * Equal bits for all layers within their bounds, for those of one role too where groups of blocks share middle dimensions.
 *
 * @param relative Bounds in means where the options give none.
 * @throws {RangeError} as {@linkcode planRanges} does.
 */
export function proposeRanks(
  { layers, bitsPerWeight, budget }: Pick<StageIO["allocation"]["input"], "layers" | "bitsPerWeight" | "budget">,
  options: BudgetOptions,
  relative: RelativeBounds,
): Proposal {
  const spend = planRanges(layers, bitsPerWeight, options, relative, budget);
  // What differs between groups of blocks is not known yet.
  const ranks = spendEqually(spend, { layers, groups: options.groups && 1 });
  return {
    final: false,
    ranks: new Map(spend.ranges.map((range, index) => {
      const [least, most] = [range.least, range.most].map((rank) =>
        (rank * range.bitsPerRank / range.elements).toFixed(2)
      );
      const why = `equal share, not measured yet; ${least} to ${most} bits`;
      return [range.name, { rank: ranks[index], reason: describeRank(range, ranks[index], why) }];
    })),
  };
}
