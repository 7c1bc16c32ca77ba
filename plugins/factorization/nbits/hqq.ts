/**
 * Factorization `hqq`.
 *
 * @module
 */
import * as v from "valibot";
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import {
  abs,
  add,
  ceil,
  clip,
  div,
  floor,
  less,
  max,
  mul,
  neg,
  pow,
  reduceSum,
  relu,
  sub,
  where,
} from "../../../pipeline/graph/ops.ts";
import { defineStage, type Stage } from "../../../pipeline/stream/stage.ts";
import { codesOf, fullGrid, type Grid, orOne, valuesOf } from "./grid.ts";
import { nbitsEntries, nbitsStores, roundingEstimate } from "./options.ts";
import { roundPanels } from "./round_panels.ts";

const options = v.strictObject({
  ...nbitsEntries,
  /** p of the error's norm ‖W − Ŵ‖_p^p: below 1, a few large errors are let be for many small ones; 2 is least squares. */
  norm: v.optional(v.pipe(v.number(), v.gtValue(0), v.maxValue(2)), 0.7),
  /** Half-quadratic steps. */
  iterations: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(100)), 20),
  /** Penalty β of the splitting at the first step, for errors counted in steps of the grid. Near 0 all of the error counts; the larger it is, the smaller the errors that are let be. */
  penalty: v.optional(v.pipe(v.number(), v.gtValue(0), v.maxValue(1e6)), 4),
  /** Growth of the penalty a step. */
  growth: v.optional(v.pipe(v.number(), v.minValue(1), v.maxValue(10)), 1.1),
});

type HqqOptions = v.InferOutput<typeof options>;

/** Magnitudes below this count as zero in powers. */
const TINY = 1e-12;

/** The proximal step of ‖·‖_p^p to first order: sign(x)·max(|x| − p·|x|^(p−1)/β, 0) (Badri & Shaji 2023, eq. 4). */
export function shrink(g: Graph, x: Value, norm: number, penalty: number): Value {
  const magnitude = max(g, abs(g, x), TINY);
  const shrunk = relu(g, sub(g, magnitude, mul(g, pow(g, magnitude, norm - 1), norm / penalty)));
  return where(g, less(g, x, 0), neg(g, shrunk), shrunk);
}

/**
 * Grids of groups by half-quadratic splitting: minimize ‖E‖_p^p + β/2·‖E − (W − Ŵ)‖² in turns over E, codes, zero points and
 * scales. Zero points are real until the end; then both neighbours are tried with scales refitted.
 *
 * @param w `(rows, groups, group)`; `d` its weights, `(1, groups, group)`.
 */
export function hqqGrid(g: Graph, w: Value, d: Value, settings: HqqOptions): Grid {
  const { bits, symmetric, norm, iterations, penalty, growth } = settings;
  const sum = (x: Value) => reduceSum(g, mul(g, x, d), [2]);
  const count = orOne(g, reduceSum(g, d, [2]));
  /** Scale that fits `target` best with the codes as they are: Σ d·t·(q − z) / Σ d·(q − z)². */
  const refit = (target: Value, codes: Value, { scale, zero }: Grid): Grid => {
    const steps = sub(g, codes, zero), square = sum(mul(g, steps, steps));
    const fitted = div(g, sum(mul(g, target, steps)), orOne(g, square));
    return { scale: where(g, less(g, abs(g, fitted), 1e-30), scale, fitted), zero };
  };
  let grid = fullGrid(g, w, 2, settings);
  for (let step = 0; step < iterations; step++) {
    const codes = codesOf(g, w, grid, bits);
    const error = div(g, sub(g, w, valuesOf(g, codes, grid)), grid.scale);
    // what the grid should fit: the weight without its outlying errors
    const target = sub(g, w, mul(g, shrink(g, error, norm, penalty * growth ** step), grid.scale));
    if (!symmetric) {
      // z ← mean(q − t/s)
      const zero = div(g, sum(sub(g, codes, div(g, target, grid.scale))), count);
      grid = { scale: grid.scale, zero: clip(g, zero, 0, 2 ** bits - 1) };
    }
    grid = refit(target, codes, grid);
  }
  const polish = (zero: Value) => {
    let own: Grid = { scale: grid.scale, zero };
    for (let step = 0; step < 3; step++) {
      const codes = codesOf(g, w, own, bits);
      const error = div(g, sub(g, w, valuesOf(g, codes, own)), own.scale);
      const last = penalty * growth ** iterations;
      own = refit(sub(g, w, mul(g, shrink(g, error, norm, last), own.scale)), codes, own);
    }
    const left = sub(g, w, valuesOf(g, codesOf(g, w, own, bits), own));
    return { own, cost: sum(pow(g, max(g, abs(g, left), TINY), norm)) };
  };
  const low = polish(floor(g, grid.zero));
  if (symmetric) return low.own;
  const high = polish(ceil(g, add(g, grid.zero, 0)));
  const better = less(g, high.cost, low.cost);
  return {
    scale: where(g, better, high.own.scale, low.own.scale),
    zero: where(g, better, high.own.zero, low.own.zero),
  };
}

/** Half-quadratic quantization (Badri & Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023), with whole zero points. */
export const hqq: Stage<"factorization", typeof options> = defineStage({
  kind: "factorization",
  scope: "layer",
  name: "hqq",
  version: "1.0.0",
  description: "Groups rounded on grids fitted by half-quadratic splitting of an l_p error; needs no calibration.",
  options,
  stores: nbitsStores,
  estimate: (layer, { iterations }) => roundingEstimate(layer, 14, 30 * iterations),
  run: (input, settings, context) =>
    roundPanels(input, settings, context, "hqq", (g, w, d) => hqqGrid(g, w, d, settings)),
});
