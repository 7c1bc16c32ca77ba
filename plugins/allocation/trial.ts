/**
 * Short factorizations of one layer, and its weighted size.
 *
 * @module
 */
import * as v from "valibot";
import type {
  DbfFactors,
  LayerImportance,
  LayerShape,
  StageContext,
  StageEstimate,
  StageIO,
} from "../../pipeline/stream/stage.ts";
import type { TensorHandle } from "../../pipeline/checkpoint/types.ts";
import { MAX_BITS_PER_WEIGHT } from "../../pipeline/plan/bits.ts";
import { factorsOfKind } from "../../pipeline/stream/factors.ts";
import { tensorSeed } from "../../pipeline/stream/seed.ts";
import { dbfAdmm } from "../factorization/dbf_admm/stage.ts";
import { floorRank } from "./ranges.ts";

/** Rows are read so many elements at a time: 16 MiB. */
const PANEL_ELEMENTS = 2 ** 22;

/** Schema entries of a stage that makes trials. */
export const trialEntries = {
  /** Outer ADMM steps of a trial; `fast`, the shortest preset of the factorization itself, has 40. */
  iterations: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(100_000)), 16),
  /** Sweeps of sign descent after them. */
  sweeps: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(1000)), 0),
};

/** What {@linkcode trialEntries} parse to. */
export interface TrialOptions {
  readonly iterations: number;
  readonly sweeps: number;
}

function admmOptions({ iterations, sweeps }: TrialOptions) {
  return v.parse(dbfAdmm.options, { effort: "fast", iterations, sweeps, latents: false });
}

/** Middle dimension of a trial: that of `bitsPerWeight`, a multiple of the step where it is above it, as bounds are. */
export function trialRank(layer: LayerShape, bitsPerWeight: number, step: number): number {
  return floorRank(layer, Math.min(MAX_BITS_PER_WEIGHT, bitsPerWeight), step);
}

/** Factorizes a layer with few steps, as the run would with the same options; its progress is not reported. */
export async function tryFactorize(
  layer: LayerShape,
  rank: number,
  { importance, weight, seed, offer }: Pick<StageIO["allocation"]["input"], "importance" | "weight" | "seed" | "offer">,
  trial: TrialOptions,
  context: StageContext,
): Promise<DbfFactors> {
  const job = { ...layer, rank, seed: tensorSeed(seed, layer.name) }, options = admmOptions(trial);
  const input = { job, weight: weight(layer.name), importance: importance.get(layer.name) };
  const factors = await dbfAdmm.run(input, options, { ...context, emit: () => {} });
  offer({ stage: dbfAdmm, options, job, factors });
  return factorsOfKind(layer.name, factors, "dbf");
}

/**
 * What the result of a trial depends on, for {@linkcode openTrialLog}.
 *
 * @param norm Of the weight, which stands for its content.
 */
export function trialKey(
  { name, rows, cols }: LayerShape,
  rank: number,
  norm: number,
  { importance, seed }: Pick<StageIO["allocation"]["input"], "importance" | "seed">,
  options?: TrialOptions,
): unknown {
  const { input = [], output = [] } = importance.get(name) ?? {};
  const sums = [input, output].map((values) => [...values].reduce((total, value, i) => total + value * (i + 1), 0));
  return [name, rows, cols, rank, norm, sums, seed, dbfAdmm.version, options];
}

/**
 * What one trial asks for. Stages that see the whole model are asked before ranks are known: bytes are those of the middle dimension
 * at 2 bits, or the given one where that is larger, times `ratio`.
 */
export function estimateTrial(
  layer: LayerShape & { readonly rank: number },
  ratio: number,
  options: TrialOptions,
): StageEstimate {
  const twoBits = 2 * layer.rows * layer.cols / (layer.rows + layer.cols);
  const at = (rank: number) =>
    dbfAdmm.estimate({ ...layer, rank: Math.max(1, Math.ceil(ratio * rank)) }, admmOptions(options));
  return { peakBytes: at(Math.max(twoBits, layer.rank)).peakBytes, flops: at(layer.rank).flops };
}

/**
 * ‖D_o^½ W D_i^½‖², the loss that a layer's weighted relative error is a share of. With diagonals from loss gradients
 * layers are in one unit; without any, every entry counts one.
 *
 * @returns Σ_ij D_o[i] W_ij² D_i[j], read a panel of rows at a time.
 */
export async function weightedNorm(
  { rows, cols }: Pick<LayerShape, "rows" | "cols">,
  weight: TensorHandle,
  importance: LayerImportance | undefined,
  signal: AbortSignal,
): Promise<number> {
  const panel = Math.max(1, Math.floor(PANEL_ELEMENTS / cols));
  let total = 0;
  for (let start = 0; start < rows; start += panel) {
    const end = Math.min(rows, start + panel);
    const values = await weight.readRows(start, end, signal);
    for (let row = start; row < end; row++) {
      let sum = 0;
      for (let col = 0, at = (row - start) * cols; col < cols; col++, at++) {
        sum += values[at] * values[at] * (importance?.input[col] ?? 1);
      }
      total += sum * (importance?.output[row] ?? 1);
    }
  }
  return total;
}

/** Names layers whose loss cannot be compared with the others' as they have no importance. */
export function noticeUnweighted(
  stage: string,
  layers: readonly LayerShape[],
  importance: ReadonlyMap<string, LayerImportance>,
  { emit }: Pick<StageContext, "emit">,
): void {
  const without = layers.filter(({ name }) => !importance.has(name));
  if (without.length === 0) return;
  emit({
    type: "notice",
    message:
      `${stage} compares ${without.length} of ${layers.length} layers by plain weight errors, as no importance ` +
      `of theirs was measured: give --calibration for errors in units of the loss`,
  });
}
