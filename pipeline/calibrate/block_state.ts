/**
 * The factorized linears of one block as trained vectors, and back.
 *
 * @module
 */
import type { Runtime } from "../../kernels/runtime/types.ts";
import type { BlockDescription } from "../model/types.ts";
import type { Factors } from "../stream/stage.ts";
import { type TrainedVector, trainedVector } from "./adamw.ts";
import { blockLayout, type LinearTreatment } from "./block_graph.ts";
import type { Feeds } from "./engine.ts";
import { signDifference } from "./latents.ts";
import { LAYER_KINDS } from "./layer_kinds.ts";
import { freeArrays } from "./move_array.ts";
import { cutSegments, elementsOf, joinSegments, type Segment } from "./parameters.ts";

/** Learning rates before the schedule. */
export interface FactorRates {
  /** Of latents, which are in unit scale. */
  readonly signs: number;
  /** Of scales, in means of each scale tensor's magnitude, or in each scale's own. */
  readonly scales: number;
  /** Which of the two; the mean where absent. */
  readonly scalesOf?: ScaleRateUnit;
}

/** What the learning rate of a scale is relative to as training starts: its tensor's mean magnitude, or its own. */
export type ScaleRateUnit = "mean" | "own";

/** Least unit of a scale's own rate, in means of its tensor: a scale of 0 would never move. */
const LEAST_OWN = 0.1;

/** Trained vectors of a block; either may be empty. */
export interface FactorVectors {
  readonly latents: TrainedVector;
  readonly scales: TrainedVector;
}

/** Names of {@linkcode FactorVectors}, in their order. */
export const FACTOR_VECTORS = ["latents", "scales"] as const;

/** How a block with the given factors enters graphs: linears without factors are frozen. */
export function treatments(
  block: BlockDescription,
  factors: ReadonlyMap<string, Factors>,
): Map<string, LinearTreatment> {
  return new Map(block.linears.map(({ role, weight }) => {
    const found = factors.get(weight);
    return [role, found === undefined ? "frozen" : LAYER_KINDS[found.kind].shapeOf(found)];
  }));
}

/**
 * Learning rate of every scale: `rate` times the mean magnitude of the tensor that it belongs to, or times its own, a tenth of
 * the mean at least.
 */
export function scaleRates(
  segments: readonly Segment[],
  scales: Float32Array,
  rate: number,
  unit: ScaleRateUnit = "mean",
): Float32Array {
  const rates = new Float32Array(scales.length);
  let at = 0;
  for (const piece of cutSegments(segments, scales).values()) {
    const mean = piece.reduce((sum, value) => sum + Math.abs(value), 0) / piece.length;
    for (const value of piece) {
      rates[at++] = rate * (unit === "mean" ? mean : Math.max(Math.abs(value), LEAST_OWN * mean));
    }
  }
  return rates;
}

/** Starts training a block from its factors, by weight name. */
export function factorVectors(
  runtime: Runtime,
  block: BlockDescription,
  factors: ReadonlyMap<string, Factors>,
  rates: FactorRates,
): FactorVectors {
  const layout = blockLayout(block, treatments(block, factors));
  const arrays = new Map<string, Float32Array>();
  for (const { role, weight } of block.linears) {
    const found = factors.get(weight);
    if (found === undefined) continue;
    for (const [name, array] of LAYER_KINDS[found.kind].trained(role, found)) arrays.set(name, array);
  }
  const scales = joinSegments(layout.scales, arrays), latents = joinSegments(layout.latents, arrays);
  freeArrays(layout.latents.map(({ name }) => arrays.get(name)!));
  return {
    latents: trainedVector(runtime, latents, Float32Array.of(rates.signs)),
    scales: trainedVector(runtime, scales, scaleRates(layout.scales, scales, rates.scales, rates.scalesOf)),
  };
}

/** Parts of a block's factors that training does not change, by the names that block graphs give their inputs. */
export function fixedFeeds(runtime: Runtime, block: BlockDescription, factors: ReadonlyMap<string, Factors>): Feeds {
  const feeds: Feeds = {};
  for (const linear of block.linears) {
    const found = factors.get(linear.weight);
    if (found === undefined) continue;
    const kind = LAYER_KINDS[found.kind], data = kind.fixedData(linear.role, found);
    for (const { name, dtype, shape } of kind.fixed(linear, kind.shapeOf(found))) {
      feeds[`fixed/${name}`] = runtime.tensor(dtype, data.get(name)!, shape);
    }
  }
  return feeds;
}

/** Factors after training: signs of the latents, and the scales. `weightedError` is that of `before`. */
export async function trainedFactors(
  block: BlockDescription,
  before: ReadonlyMap<string, Factors>,
  vectors: FactorVectors,
  options: { readonly latents: boolean },
): Promise<Map<string, Factors>> {
  const layout = blockLayout(block, treatments(block, before));
  const values = new Map<string, Float32Array>();
  const flats: Float32Array[] = [];
  for (const name of FACTOR_VECTORS) {
    const flat = await vectors[name].parameter.read() as Float32Array;
    flats.push(flat);
    for (const [part, piece] of cutSegments(layout[name], flat)) values.set(part, piece);
  }
  const factors = new Map<string, Factors>();
  for (const linear of block.linears) {
    const old = before.get(linear.weight);
    if (old !== undefined) factors.set(linear.weight, LAYER_KINDS[old.kind].restore(linear, old, values, options));
  }
  freeArrays(flats);
  return factors;
}

/** Signs that a block's factors have, and how many differ. */
export function countFlips(
  before: ReadonlyMap<string, Factors>,
  after: ReadonlyMap<string, Factors>,
): { readonly signs: number; readonly flipped: number } {
  let signs = 0, flipped = 0;
  for (const [name, factors] of after) {
    const old = LAYER_KINDS[factors.kind].signs(before.get(name)!);
    for (const [index, matrix] of LAYER_KINDS[factors.kind].signs(factors).entries()) {
      signs += elementsOf([matrix.rows, matrix.cols]);
      flipped += signDifference(old[index], matrix);
    }
  }
  return { signs, flipped };
}

/** Share of signs that differ; 0 without signs. */
export function flippedShare(before: ReadonlyMap<string, Factors>, after: ReadonlyMap<string, Factors>): number {
  const { signs, flipped } = countFlips(before, after);
  return flipped / Math.max(1, signs);
}
