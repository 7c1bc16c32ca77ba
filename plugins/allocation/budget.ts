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
  const nexts = ladders.map(nextOnHull);
  const wishOf = (i: number): Next | undefined => {
    const index = nexts[i][picks[i]], slope = index < 0 ? -1 : slopeOf(ladders[i][picks[i]], ladders[i][index]);
    return slope >= 0 ? { index, slope } : undefined;
  };
  const wishes = ladders.map((_, i) => wishOf(i));
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
    wishes[layer] = tight ? bestOf(ladder, wish.index, left) : wishOf(layer);
  }
}

function slopeOf(from: Choice, to: Choice): number {
  const price = to.cost - from.cost, saving = from.loss - to.loss;
  return price > 0 ? saving / price : saving < 0 ? -Infinity : Infinity;
}

/** For each choice the later one that saves most per unit of cost, of equal ones the cheapest; −1 for the last. */
function nextOnHull(ladder: readonly Choice[]): Int32Array {
  const next = new Int32Array(ladder.length).fill(-1);
  for (let i = ladder.length - 2; i >= 0; i--) {
    // The hull of the later choices runs through `next`; the tangent from this one starts where slopes stop rising.
    let best = i + 1;
    while (next[best] >= 0 && slopeOf(ladder[i], ladder[next[best]]) > slopeOf(ladder[i], ladder[best])) {
      best = next[best];
    }
    next[i] = best;
  }
  return next;
}

/** The later choice that saves most per unit of cost and costs at most `left` more; of equal ones the cheapest. */
function bestOf(ladder: readonly Choice[], from: number, left: number): Next | undefined {
  let best: Next | undefined;
  for (let index = from + 1; index < ladder.length && ladder[index].cost - ladder[from].cost <= left; index++) {
    const slope = slopeOf(ladder[from], ladder[index]);
    if (slope >= 0 && (best === undefined || slope > best.slope)) best = { index, slope };
  }
  return best;
}
