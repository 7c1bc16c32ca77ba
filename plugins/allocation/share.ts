/**
 * Spends a budget on layers that share middle dimensions, so that blocks have equal structures.
 *
 * @module
 */
import type { LayerShape } from "../../pipeline/stream/stage.ts";
import { type Choice, spendBudget } from "./budget.ts";

/** One thing that a layer may be: a middle dimension, or a candidate's kind. */
export interface Rung extends Choice {
  /** 0 for a candidate. */
  readonly rank: number;
  /** Name of the candidate. */
  readonly method?: string;
}

/** What layers share. */
export type Sharer = Pick<LayerShape, "block" | "role" | "rows" | "cols">;

/** What was bought. */
export interface Spent {
  /** Of each layer. */
  readonly rungs: readonly Rung[];
  /** How many layers have their choice in common with each, itself included. */
  readonly sharers: readonly number[];
  /** As {@linkcode spendBudget} gives it. */
  readonly slope: number;
}

/**
 * Spends a budget on each layer alone, or on all layers of one role and shape in a group of blocks as if they were one
 * layer: costs and losses of a choice are sums, and a choice that one of them lacks none of them has.
 *
 * Groups are of consecutive blocks. They are split one after the other, at the border that lowers the sum of losses most,
 * while one does.
 *
 * @param ladders Choices of each layer, costs rising; layers without a choice, as by an override, are shared with none.
 * @param total Budget, in the unit of the costs.
 * @param groups Most groups of blocks; each layer alone where absent.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { spendLadders } from "./share.ts";
 *
 * const layers = [0, 1].map((block) => ({ block, role: "up_proj", rows: 8, cols: 8 }));
 * const ladder = (weight: number) => [1, 2, 3].map((rank) => ({ rank, cost: rank, loss: weight / rank }));
 * const ranks = (groups?: number) =>
 *   spendLadders(layers, [ladder(1), ladder(9)], 4, groups).rungs.map(({ rank }) => rank);
 * assertEquals([ranks(), ranks(1), ranks(2)], [[1, 3], [2, 2], [1, 3]]);
 * ```
 */
export function spendLadders(
  layers: readonly Sharer[],
  ladders: readonly (readonly Rung[])[],
  total: number,
  groups?: number,
): Spent {
  if (groups === undefined) return spendTogether(ladders, total, ladders.map((_, index) => [index]));
  const blocks = [...new Set(layers.map(({ block }) => block))].sort((x, y) => x - y);
  const spendSplit = (borders: readonly number[]) =>
    spendTogether(
      ladders,
      total,
      membersOf(layers, ladders, (block) => borders.filter((each) => each <= block).length),
    );
  let borders: readonly number[] = [];
  let best = spendSplit(borders);
  while (borders.length + 1 < groups) {
    const tries = blocks.slice(1).filter((block) => !borders.includes(block)).map((block) => {
      const split = [...borders, block];
      return { split, spent: spendSplit(split) };
    });
    const found = tries.reduce<typeof tries[number] | undefined>(
      (least, each) => lossOf(each.spent) < lossOf(least?.spent ?? best) ? each : least,
      undefined,
    );
    if (found === undefined) break;
    borders = found.split;
    best = found.spent;
  }
  return best;
}

function lossOf({ rungs }: Spent): number {
  return rungs.reduce((sum, { loss }) => sum + loss, 0);
}

/** Indices of layers by group of blocks, role, shape and the middle dimensions that they may have. */
function membersOf(
  layers: readonly Sharer[],
  ladders: readonly (readonly Rung[])[],
  groupOf: (block: number) => number,
): number[][] {
  const members = new Map<string, number[]>();
  layers.forEach(({ block, role, rows, cols }, index) => {
    const ranks = ladders[index].filter(({ method }) => method === undefined).map(({ rank }) => rank);
    const key = JSON.stringify([groupOf(block), role, rows, cols, ranks]);
    members.set(key, [...members.get(key) ?? [], index]);
  });
  return [...members.values()];
}

function spendTogether(
  ladders: readonly (readonly Rung[])[],
  total: number,
  members: readonly (readonly number[])[],
): Spent {
  // of each set of layers, each of its choices as the rungs of its members
  const choices = members.map((set) => commonRungs(set.map((index) => ladders[index])));
  const { picks, slope } = spendBudget(choices, total);
  const rungs = new Array<Rung>(ladders.length), sharers = new Array<number>(ladders.length);
  members.forEach((set, at) => {
    choices[at][picks[at]].rungs.forEach((rung, i) => {
      rungs[set[i]] = rung;
      sharers[set[i]] = set.length;
    });
  });
  return { rungs, sharers, slope };
}

/** Choices that all of some ladders have, with the rung of each. */
function commonRungs(ladders: readonly (readonly Rung[])[]): (Choice & { readonly rungs: readonly Rung[] })[] {
  const nameOf = ({ rank, method }: Rung) => method ?? rank;
  const [first, ...others] = ladders;
  const known = others.map((ladder) => new Map(ladder.map((rung) => [nameOf(rung), rung])));
  return first.flatMap((rung) => {
    const rungs = [rung, ...known.map((each) => each.get(nameOf(rung)))];
    if (!rungs.every((each) => each !== undefined)) return [];
    const sum = (of: (each: Rung) => number) => rungs.reduce((total, each) => total + of(each), 0);
    return [{ cost: sum(({ cost }) => cost), loss: sum(({ loss }) => loss), rungs }];
  }).sort((x, y) => x.cost - y.cost);
}
