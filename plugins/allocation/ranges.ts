/**
 * Middle dimensions that each layer may have under one global budget.
 *
 * @module
 */
import { signBitBudget } from "../../pipeline/plan/allocation_budget.ts";
import { MAX_BITS_PER_WEIGHT, type WeightShape } from "../../pipeline/plan/bits.ts";
import { sum } from "../../pipeline/plan/sum.ts";
import type { AllocationBudget } from "../../pipeline/stream/stage.ts";
import type { Choice } from "./budget.ts";
import type { BudgetOptions } from "./budget_options.ts";

/** A step is at most this share of the middle dimension at one bit, so that small layers keep a choice. */
const STEPS_PER_BIT = 8;

/** Middle dimensions of one layer: `least`, then multiples of `step` above it, then `most`. */
export interface RankRange {
  readonly name: string;
  /** Sign bits of one more middle channel: n + m. */
  readonly bitsPerRank: number;
  /** n·m. */
  readonly elements: number;
  readonly step: number;
  readonly least: number;
  readonly most: number;
  /** The override that fixed it: `least` = `most`. */
  readonly override?: string;
  /** In the budget's unit. */
  cost(rank: number): number;
}

/** A budget and what may be bought with it. */
export interface Budget {
  /** What all layers together may cost. */
  readonly total: number;
  /** Mean bits per weight that is left for layers without an override. */
  readonly freeBits: number;
  /** In the order of the layers. */
  readonly ranges: readonly RankRange[];
}

/**
 * Middle dimensions that a layer may have, each with its cost and loss.
 *
 * @param loss Of the layer at a middle dimension; it must not rise.
 */
export function ladderOf(
  { least, most, step, cost }: RankRange,
  loss: (rank: number) => number,
): (Choice & { readonly rank: number })[] {
  const ranks = [least];
  for (let rank = (Math.floor(least / step) + 1) * step; rank < most; rank += step) ranks.push(rank);
  if (most > least) ranks.push(most);
  return ranks.map((rank) => ({ rank, cost: cost(rank), loss: loss(rank) }));
}

/** Default bounds of a layer's bits, in means over the layers without an override. They give way where they cannot be met. */
export interface RelativeBounds {
  readonly min: number;
  readonly max: number;
}

/**
 * Largest power of two that is at most `step` and an eighth of nm/(n+m), but `step` itself where that is larger.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { stepOf } from "./ranges.ts";
 *
 * assertEquals(stepOf({ rows: 4096, cols: 4096 }, 32), 32);
 * assertEquals(stepOf({ rows: 192, cols: 192 }, 32), 8);
 * ```
 */
export function stepOf({ rows, cols }: Pick<WeightShape, "rows" | "cols">, step: number): number {
  const most = rows * cols / (rows + cols) / STEPS_PER_BIT;
  return step <= most ? step : Math.min(step, 2 ** Math.max(0, Math.floor(Math.log2(most))));
}

/**
 * Finds the middle dimensions that layers may have.
 *
 * @param bitsPerWeight Mean sign bits per weight over all layers together, overridden ones included.
 * @param budget What they may cost; those bits where absent.
 * @throws {RangeError} when even the smallest middle dimensions are above the budget, naming the smallest possible one;
 *   when the largest allowed ones are below it, naming the largest; when an override matches no layer.
 * @throws {SyntaxError} when an override is no regular expression.
 */
export function planRanges(
  layers: readonly WeightShape[],
  bitsPerWeight: number,
  options: BudgetOptions,
  relative: RelativeBounds,
  budget?: AllocationBudget,
): Budget {
  const { minBits, maxBits } = options;
  if (!(bitsPerWeight > 0 && bitsPerWeight <= MAX_BITS_PER_WEIGHT)) {
    throw new RangeError(
      `Cannot allocate such a budget, which must be above 0 and at most ${MAX_BITS_PER_WEIGHT} bits a weight: ` +
        `current value is ${bitsPerWeight}`,
    );
  }
  if (minBits !== undefined && maxBits !== undefined && minBits > maxBits) {
    throw new RangeError(`Cannot allocate with minBits above maxBits: current value is ${minBits} and ${maxBits}`);
  }
  const overrides = matchOverrides(layers, options.overrides);
  const elements = sum(layers, (layer) => layer.rows * layer.cols);
  const spend = budget ?? signBitBudget(layers, bitsPerWeight);
  const { total, cost } = spend;
  const fixed = layers.map((layer) => {
    const override = overrides.get(layer.name);
    return override && { rank: floorRank(layer, override.bits, options.step), pattern: override.pattern };
  });
  const costOf = (ranks: readonly number[]) => sum(layers, (layer, i) => cost(layer, ranks[i]));
  const lowest = layers.map((layer, i) => fixed[i]?.rank ?? explicitLeast(layer, options));
  if (costOf(lowest) > total) {
    const reasons = [
      fixed.some(Boolean) ? "overrides" : "",
      minBits === undefined ? "a middle dimension of at least 1" : `minBits ${minBits}`,
    ].filter(Boolean).join(" and ");
    throw spend.tooSmall(costOf(lowest), reasons);
  }

  const freeElements = sum(layers, (layer, i) => fixed[i] === undefined ? layer.rows * layer.cols : 0);
  const spent = sum(layers, (layer, i) => (fixed[i]?.rank ?? 0) * (layer.rows + layer.cols));
  const freeBits = freeElements === 0 ? 0 : (bitsPerWeight * elements - spent) / freeElements;

  let least = layers.map((layer, i) =>
    fixed[i]?.rank ??
      Math.max(lowest[i], minBits === undefined ? floorRank(layer, relative.min * freeBits, options.step) : 0)
  );
  if (costOf(least) > total) least = lowest;
  const mostAt = (bits: number) =>
    layers.map((layer, i) => fixed[i]?.rank ?? Math.max(lowest[i], floorRank(layer, bits, options.step)));
  let most = mostAt(maxBits ?? relative.max * freeBits);
  // A size is a bound; bits are wanted.
  const short = (ranks: readonly number[]) =>
    spend.unit === "sign bits" && freeElements > 0 && total - costOf(ranks) >=
      Math.max(...layers.map((layer, i) => fixed[i] ? 0 : stepOf(layer, options.step) * (layer.rows + layer.cols)));
  for (
    let max = relative.max;
    maxBits === undefined && costOf(most) < total && max * freeBits < MAX_BITS_PER_WEIGHT;
  ) {
    most = mostAt(Math.min(MAX_BITS_PER_WEIGHT, (max *= 2) * freeBits));
  }
  if (short(most)) {
    const largest = Math.floor(costOf(most) / elements * 1e6) / 1e6;
    throw new RangeError(
      `Cannot spend ${bitsPerWeight} bits a weight as no layer may have more than ${maxBits ?? MAX_BITS_PER_WEIGHT}` +
        `${fixed.some(Boolean) ? " and overrides fix some" : ""}: use at most ${largest}, or raise maxBits`,
    );
  }
  return {
    total,
    freeBits,
    ranges: layers.map((layer, i) => ({
      name: layer.name,
      bitsPerRank: layer.rows + layer.cols,
      elements: layer.rows * layer.cols,
      step: stepOf(layer, options.step),
      least: Math.min(least[i], most[i]),
      most: most[i],
      cost: (rank: number) => cost(layer, rank),
      ...(fixed[i] === undefined ? {} : { override: fixed[i].pattern }),
    })),
  };
}

/** Middle dimension at `bits`, rounded down to the step; below one step it is not rounded, and at least 1. */
export function floorRank(layer: WeightShape, bits: number, largestStep: number): number {
  const step = stepOf(layer, largestStep);
  const rank = bits * layer.rows * layer.cols / (layer.rows + layer.cols) + 1e-9;
  return Math.max(1, rank < step ? Math.floor(rank) : Math.floor(rank / step) * step);
}

/** The least middle dimension that a user's `minBits` allows, rounded up to the step; 1 without one. */
function explicitLeast(layer: WeightShape, { minBits, step }: BudgetOptions): number {
  if (minBits === undefined) return 1;
  const multiple = stepOf(layer, step);
  return multiple * Math.ceil(minBits * layer.rows * layer.cols / (layer.rows + layer.cols) / multiple - 1e-9);
}

function matchOverrides(
  layers: readonly WeightShape[],
  overrides: BudgetOptions["overrides"],
): Map<string, { readonly pattern: string; readonly bits: number }> {
  const found = new Map<string, { readonly pattern: string; readonly bits: number }>();
  for (const [pattern, bits] of Object.entries(overrides)) {
    let expression: RegExp;
    try {
      expression = new RegExp(pattern);
    } catch (cause) {
      throw new SyntaxError(
        `Cannot use an override as a regular expression: current value is ${JSON.stringify(pattern)}`,
        { cause },
      );
    }
    const names = layers.map(({ name }) => name).filter((name) => expression.test(name));
    if (names.length === 0) {
      throw new RangeError(
        `Cannot use override ${JSON.stringify(pattern)} as no layer's name matches it; layers are called like ` +
          `${layers[0]?.name ?? "nothing, for there is none"}`,
      );
    }
    for (const name of names) found.set(name, { pattern, bits });
  }
  return found;
}
