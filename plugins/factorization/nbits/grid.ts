/**
 * Scales and zero points of groups, in graphs. Groups lie along `axis`; grids keep that axis with size one.
 *
 * @module
 */
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import {
  abs,
  add,
  clip,
  div,
  equal,
  greater,
  less,
  max,
  min,
  mul,
  neg,
  reduceMax,
  reduceMin,
  reduceSum,
  round,
  sub,
  where,
} from "../../../pipeline/graph/ops.ts";
import type { CodeBits } from "../../../pipeline/stream/stage.ts";
import { middle, type NbitsOptions } from "./options.ts";

/** Scale and zero point of each group: w ≈ scale·(code − zero). */
export interface Grid {
  readonly scale: Value;
  /** Whole, 0 … 2^bits − 1. */
  readonly zero: Value;
}

/** Scales below this are those of groups without entries; they become 1, so that quotients stay finite. */
const TINY = 1e-30;

/** Codes of values that are already over the scale and shifted by the zero point: whole, 0 … 2^bits − 1. */
export function toCodes(g: Graph, shifted: Value, bits: CodeBits): Value {
  return clip(g, round(g, shifted), 0, 2 ** bits - 1);
}

/** Codes of `w` on a grid. */
export function codesOf(g: Graph, w: Value, { scale, zero }: Grid, bits: CodeBits): Value {
  return toCodes(g, add(g, div(g, w, scale), zero), bits);
}

/** What codes stand for. */
export function valuesOf(g: Graph, codes: Value, { scale, zero }: Grid): Value {
  return mul(g, sub(g, codes, zero), scale);
}

/** The grid from `low` ≤ 0 to `high` ≥ 0. */
function gridBetween(g: Graph, low: Value, high: Value, { bits, symmetric }: NbitsOptions): Grid {
  const most = 2 ** bits - 1;
  if (symmetric) {
    // The entry of largest magnitude gets code 0, −2^(bits−1) steps away, whatever its sign: no code is wasted.
    const largest = where(g, greater(g, high, neg(g, low)), high, low);
    const scale = div(g, neg(g, largest), middle(bits));
    return { scale: where(g, less(g, abs(g, scale), TINY), 1, scale), zero: sub(g, mul(g, scale, 0), -middle(bits)) };
  }
  const scale = div(g, sub(g, high, low), most);
  const safe = where(g, less(g, scale, TINY), 1, scale);
  return { scale: safe, zero: clip(g, round(g, div(g, neg(g, low), safe)), 0, most) };
}

/** Smallest and largest entry of each group, zero included. */
function rangeOf(g: Graph, w: Value, axis: number): { readonly low: Value; readonly high: Value } {
  return { low: min(g, reduceMin(g, w, [axis]), 0), high: max(g, reduceMax(g, w, [axis]), 0) };
}

/** The grid that reaches from the smallest to the largest entry. */
export function fullGrid(g: Graph, w: Value, axis: number, options: NbitsOptions): Grid {
  const { low, high } = rangeOf(g, w, axis);
  return gridBetween(g, low, high, options);
}

/** The narrowest range tried by {@linkcode clippedGrid}, in full ranges. */
const NARROWEST = 0.4;

/**
 * The best of several grids, from the full range to {@linkcode NARROWEST} of it, by Σ d ⊙ (w − ŵ)² over the group.
 *
 * @param d Importance that broadcasts to `w`.
 * @param steps Ranges tried beside the full one.
 */
export function clippedGrid(g: Graph, w: Value, d: Value, axis: number, options: NbitsOptions, steps: number): Grid {
  const { low, high } = rangeOf(g, w, axis);
  const costOf = (grid: Grid) => {
    const error = sub(g, w, valuesOf(g, codesOf(g, w, grid, options.bits), grid));
    return reduceSum(g, mul(g, mul(g, error, error), d), [axis]);
  };
  let best = gridBetween(g, low, high, options), cost = costOf(best);
  for (let step = 1; step <= steps; step++) {
    const share = 1 - (1 - NARROWEST) * step / steps;
    const grid = gridBetween(g, mul(g, low, share), mul(g, high, share), options), other = costOf(grid);
    const better = less(g, other, cost);
    best = { scale: where(g, better, grid.scale, best.scale), zero: where(g, better, grid.zero, best.zero) };
    cost = where(g, better, other, cost);
  }
  return best;
}

/** 0 where `x` is 0, which avoids 0/0 in quotients with it. */
export function orOne(g: Graph, x: Value): Value {
  return where(g, equal(g, x, 0), 1, x);
}
