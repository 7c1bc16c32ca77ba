/**
 * Middle dimensions that spend a budget.
 *
 * @module
 */
import type { LayerShape } from "../../pipeline/stream/stage.ts";
import { type Budget, ladderOf } from "./ranges.ts";
import { spendLadders } from "./share.ts";

/** Layers of which groups of blocks share middle dimensions, see {@linkcode spendLadders}. */
export interface Sharing {
  readonly layers: readonly LayerShape[];
  /** Most groups of blocks; each layer alone where absent. */
  readonly groups?: number;
}

/** Middle dimensions that spend a budget where the loss of each layer is known, each layer alone where nothing is shared. */
export function spendRanks(
  { ranges, total }: Budget,
  loss: (index: number, rank: number) => number,
  { layers, groups }: Sharing = { layers: [] },
): { readonly ranks: number[]; readonly sharers: readonly number[]; readonly slope: number } {
  const ladders = ranges.map((range, index) => ladderOf(range, (rank) => loss(index, rank)));
  const { rungs, sharers, slope } = spendLadders(layers, ladders, total, groups);
  return { ranks: rungs.map(({ rank }) => rank), sharers, slope };
}

/**
 * Middle dimensions that spend a budget as if no layer mattered more than another: with loss nm·4^(−bits) the slopes of
 * all are equal at equal bits.
 */
export function spendEqually(budget: Budget, sharing?: Sharing): number[] {
  const loss = (index: number, rank: number) => {
    const { elements, bitsPerRank } = budget.ranges[index];
    return elements * 4 ** (-rank * bitsPerRank / elements);
  };
  return spendRanks(budget, loss, sharing).ranks;
}
