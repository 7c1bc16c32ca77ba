/**
 * Spends one global budget on choices of layers.
 *
 * @module
 */

/** One thing that a layer may be. */
export interface Choice {
  /** In the budget's unit. */
  readonly cost: number;
  /** What the layer then does to the model's loss; only differences matter. */
  readonly loss: number;
}

/** A layer's next choice and what it saves per unit of cost. */
interface Next {
  readonly index: number;
  readonly slope: number;
}

/**
 * Raises every layer from its first choice, always by the affordable one that saves the most loss per unit of cost, until
 * none is affordable. As a layer may skip choices, this walks along the lower convex hull of its losses: one global
 * threshold on the slope, as bisection would find it, with the rest of the budget spent on what comes next.
 *
 * The total is never above the budget, and no layer could still afford its next choice that isn't worse.
 *
 * @param ladders Choices of each layer, costs rising.
 * @param total Budget, in the unit of the costs.
 * @returns The index of each layer's choice, and the least slope that was bought while every wish was affordable
 *   (`Infinity` when none was).
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { spendBudget } from "./budget.ts";
 *
 * const ladder = (losses: number[]) => losses.map((loss, cost) => ({ cost, loss }));
 * assertEquals(spendBudget([ladder([8, 4, 2, 1]), ladder([9, 9, 0, 0])], 3).picks, [1, 2]);
 * ```
 */
export function spendBudget(
  ladders: readonly (readonly Choice[])[],
  total: number,
): { readonly picks: number[]; readonly slope: number } {
  const picks = ladders.map(() => 0);
  let left = total - ladders.reduce((sum, [first]) => sum + first.cost, 0);
  // What is left only shrinks, and with it what a layer can afford: a cached wish is never better than it looks.
  const wishes = ladders.map((ladder) => bestOf(ladder, 0, Infinity));
  let slope = Infinity;
  let tight = false;
  while (true) {
    const layer = wishes.reduce(
      (best, wish, i) => wish !== undefined && (best < 0 || wish.slope > wishes[best]!.slope) ? i : best,
      -1,
    );
    if (layer < 0) return { picks, slope };
    const ladder = ladders[layer], wish = wishes[layer]!;
    const price = ladder[wish.index].cost - ladder[picks[layer]].cost;
    if (price > left) {
      tight = true;
      wishes[layer] = bestOf(ladder, picks[layer], left);
      continue;
    }
    if (!tight) slope = Math.min(slope, wish.slope);
    left -= price;
    picks[layer] = wish.index;
    wishes[layer] = bestOf(ladder, wish.index, tight ? left : Infinity);
  }
}

/** The later choice that saves most per unit of cost and costs at most `left` more; of equal ones the cheapest. */
function bestOf(ladder: readonly Choice[], from: number, left: number): Next | undefined {
  let best: Next | undefined;
  const { cost, loss } = ladder[from];
  for (let index = from + 1; index < ladder.length; index++) {
    const price = ladder[index].cost - cost, saving = loss - ladder[index].loss;
    if (price > left) break;
    if (saving < 0) continue;
    const slope = price > 0 ? saving / price : Infinity;
    if (best === undefined || slope > best.slope) best = { index, slope };
  }
  return best;
}
