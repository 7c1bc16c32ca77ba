/**
 * Spends one global budget of sign bits step by step.
 *
 * @module
 */
import type { Budget } from "./ranges.ts";

/**
 * Raises middle dimensions from the least to the most allowed, always by the affordable step of highest value, until no
 * step is affordable. For values that fall with every step of a layer this is one global threshold on the value, as
 * bisection on the threshold would find it, with the rest of the budget spent on what comes next.
 *
 * The total is never above the budget, and below it by less than one step of any layer that is not at its most.
 *
 * @param value Worth of a step of layer `index` from one middle dimension to a higher one, per sign bit; among equal ones
 *   the layer with the fewest bits per weight goes first.
 * @returns Middle dimensions in the order of the ranges, and the least value that was bought while every step was
 *   affordable (`Infinity` when none was).
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { fillBudget } from "./budget.ts";
 * import { planRanges } from "./ranges.ts";
 *
 * const layers = ["a", "b"].map((name) => ({ name, rows: 64, cols: 64 }));
 * const budget = planRanges(layers, 1, { step: 4, overrides: {} }, { min: 0.5, max: 2 });
 * assertEquals(fillBudget(budget, (index) => index).ranks, [16, 48]);
 * ```
 */
export function fillBudget(
  { signBits, ranges }: Budget,
  value: (index: number, from: number, to: number) => number,
): { readonly ranks: number[]; readonly threshold: number } {
  const ranks = ranges.map(({ least }) => least);
  let left = signBits - ranges.reduce((total, { bitsPerRank, least }) => total + bitsPerRank * least, 0);
  const nextOf = (index: number) => {
    const { step, most } = ranges[index];
    return Math.min(most, (Math.floor(ranks[index] / step) + 1) * step);
  };
  const valueOf = (index: number) => ranks[index] < ranges[index].most ? value(index, ranks[index], nextOf(index)) : 0;
  const bitsOf = (index: number) => ranks[index] * ranges[index].bitsPerRank / ranges[index].elements;
  const values = ranges.map((_, index) => valueOf(index));
  let threshold = Infinity;
  let tight = false;
  while (true) {
    let best = -1;
    for (let index = 0; index < ranges.length; index++) {
      const { most, bitsPerRank } = ranges[index];
      if (ranks[index] >= most) continue;
      if ((nextOf(index) - ranks[index]) * bitsPerRank > left) {
        tight = true;
        continue;
      }
      const better = best < 0 || values[index] > values[best] ||
        values[index] === values[best] && bitsOf(index) < bitsOf(best);
      if (better) best = index;
    }
    if (best < 0) return { ranks, threshold };
    const next = nextOf(best);
    left -= (next - ranks[best]) * ranges[best].bitsPerRank;
    if (!tight) threshold = Math.min(threshold, values[best]);
    ranks[best] = next;
    values[best] = valueOf(best);
  }
}
