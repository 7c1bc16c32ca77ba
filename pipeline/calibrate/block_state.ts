/**
 * The DBF linears of one block as trained vectors, and back.
 *
 * @module
 */
import type { Runtime } from "../../kernels/runtime/types.ts";
import { f32ToF16Bits } from "../checkpoint/half.ts";
import type { BlockDescription } from "../model/types.ts";
import type { DbfFactors } from "../stream/stage.ts";
import { type TrainedVector, trainedVector } from "./adamw.ts";
import { blockLayout, type LinearTreatment } from "./block_graph.ts";
import { factorArrays, packLatents, signDifference } from "./dbf_linear.ts";
import { cutSegments, elementsOf, joinSegments, type Segment } from "./parameters.ts";

/** Learning rates before the schedule. */
export interface DbfRates {
  /** Of latents, which are in unit scale. */
  readonly signs: number;
  /** Of scales, in means of each scale vector's magnitude. */
  readonly scales: number;
}

/** Trained vectors of a block with DBF linears. */
export interface DbfVectors {
  readonly latents: TrainedVector;
  readonly scales: TrainedVector;
}

/** How a block with the given factors enters graphs: linears without factors are frozen. */
export function treatments(
  block: BlockDescription,
  factors: ReadonlyMap<string, DbfFactors>,
): Map<string, LinearTreatment> {
  return new Map(block.linears.map(({ role, weight }) => {
    const found = factors.get(weight);
    return [role, found === undefined ? "frozen" : { rank: found.rank }];
  }));
}

/** Learning rate of every scale: `rate` times the mean magnitude of the vector that it belongs to. */
function scaleRates(segments: readonly Segment[], scales: Float32Array, rate: number): Float32Array {
  const rates = new Float32Array(scales.length);
  let at = 0;
  for (const piece of cutSegments(segments, scales).values()) {
    const mean = piece.reduce((sum, value) => sum + Math.abs(value), 0) / piece.length;
    rates.fill(rate * mean, at, at += piece.length);
  }
  return rates;
}

/** Starts training a block from its factors, by weight name. */
export function dbfVectors(
  runtime: Runtime,
  block: BlockDescription,
  factors: ReadonlyMap<string, DbfFactors>,
  rates: DbfRates,
): DbfVectors {
  const layout = blockLayout(block, treatments(block, factors));
  const arrays = new Map<string, Float32Array>();
  for (const { role, weight } of block.linears) {
    const found = factors.get(weight);
    if (found !== undefined) { for (const [name, array] of factorArrays(role, found)) arrays.set(name, array); }
  }
  const scales = joinSegments(layout.scales, arrays);
  return {
    latents: trainedVector(runtime, joinSegments(layout.latents, arrays), Float32Array.of(rates.signs)),
    scales: trainedVector(runtime, scales, scaleRates(layout.scales, scales, rates.scales)),
  };
}

/** Factors after training: signs of the latents, and the scales. `weightedError` is that of `before`. */
export async function trainedFactors(
  block: BlockDescription,
  before: ReadonlyMap<string, DbfFactors>,
  vectors: DbfVectors,
  options: { readonly latents: boolean },
): Promise<Map<string, DbfFactors>> {
  const layout = blockLayout(block, treatments(block, before));
  const latents = cutSegments(layout.latents, await vectors.latents.parameter.read() as Float32Array);
  const scales = cutSegments(layout.scales, await vectors.scales.parameter.read() as Float32Array);
  const factors = new Map<string, DbfFactors>();
  for (const { role, weight, rows, cols } of block.linears) {
    const old = before.get(weight);
    if (old === undefined) continue;
    const A = latents.get(`${role}/A`)!, B = latents.get(`${role}/B`)!;
    factors.set(weight, {
      ...old,
      A: packLatents(A, rows, old.rank),
      B: packLatents(B, old.rank, cols),
      a: scales.get(`${role}/a`)!.slice(),
      mid: scales.get(`${role}/mid`)!.slice(),
      b: scales.get(`${role}/b`)!.slice(),
      latents: options.latents ? { A: f32ToF16Bits(signedHalf(A)), B: f32ToF16Bits(signedHalf(B)) } : undefined,
    });
  }
  return factors;
}

/** Smallest magnitude that a half keeps a sign with. */
const LEAST_HALF = 2 ** -14;

/** Keeps tiny latents from rounding to a zero of the other sign. */
function signedHalf(latents: Float32Array): Float32Array {
  return latents.map((value) => value >= 0 ? Math.max(value, LEAST_HALF) : Math.min(value, -LEAST_HALF));
}

/** Signs of all factors together. */
function signCount(factors: ReadonlyMap<string, DbfFactors>): number {
  let count = 0;
  for (const { A, B } of factors.values()) count += elementsOf([A.rows, A.cols]) + elementsOf([B.rows, B.cols]);
  return count;
}

/** Share of signs that differ. */
export function flippedShare(
  before: ReadonlyMap<string, DbfFactors>,
  after: ReadonlyMap<string, DbfFactors>,
): number {
  let flipped = 0;
  for (const [name, { A, B }] of after) {
    const old = before.get(name)!;
    flipped += signDifference(old.A, A) + signDifference(old.B, B);
  }
  return flipped / Math.max(1, signCount(after));
}
