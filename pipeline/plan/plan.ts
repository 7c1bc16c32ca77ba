/**
 * Plans a run: sizes, memory, disk and time from shapes alone.
 *
 * @module
 */
import { type Allocated, type AllocatedLayer, type LayerShape, type RunShape, STAGE_SCOPES } from "../stream/stage.ts";
import { rankForBits } from "./bits.ts";
import type { Inventory } from "./inventory.ts";
import { runShape } from "./run_shape.ts";
import { scratchBytes, type ScratchUse } from "./scratch.ts";
import { bitsForSize, COMMIT_BYTES_PER_LAYER, elementsOf, exportedBytes, type StorageOf } from "./sizes.ts";
import { dbfStorage, storedBitsPerWeight, storedBytes } from "./storage.ts";
import { sum } from "./sum.ts";
import type { PlannedLayer, PlannedStage, PlanReport } from "./types.ts";

/** Resident memory of the process before it holds a weight: Deno, ONNX Runtime's library and its default arenas. */
export const PROCESS_BYTES = 200 * 2 ** 20;

/** What an export holds beside the packed tensors of one layer: chunks on their way from checkpoint to file. */
export const EXPORT_CHUNK_BYTES = 64 * 2 ** 20;

/** Useful operations a nanosecond that are assumed where none were measured: two cores of a server CPU. */
export const DEFAULT_GFLOPS = 80;

/** Bytes of a scale in the artefact: f32, so that exports of any type start from exact values. */
const ARTEFACT_SCALE_BYTES = 4;

/** What {@linkcode planRun} plans. */
export interface PlanInput {
  readonly inventory: Inventory;
  /** The mean of sign bits per weight; or `sizeBytes`, or `ranks` from an allocation stage. Default 2. */
  readonly bitsPerWeight?: number;
  /** Largest export in `dtype`; the bits follow. */
  readonly sizeBytes?: number;
  /** Middle dimension by weight name and why; the uniform allocation where absent. */
  readonly ranks?: Allocated;
  /** What each layer is stored as; double-binary where absent. */
  readonly storageOf?: StorageOf;
  readonly stages?: readonly PlannedStage[];
  /** Type of what stays dense. Default `"f32"`. */
  readonly dtype?: "f32" | "f16";
  /** Useful operations a nanosecond, measured or assumed. Default {@linkcode DEFAULT_GFLOPS}. */
  readonly gflops?: number;
  /** Layer jobs in flight at once; each holds its own peak. Default 1. */
  readonly parallelJobs?: number;
  /** Bound of the lease in bytes: parallel jobs never hold more together, unless one alone does. */
  readonly memoryBytes?: number;
  /** What keeps working state on disk (block inputs, latents, optimizer); none by default. */
  /** Most calibration windows, and tokens of each; none for a run on weights alone. */
  readonly calibration?: RunShape["calibration"];
  readonly scratch?: Omit<ScratchUse, "hiddenSize">;
  /** Bytes of a GPU's memory that the run may fill; absent on the CPU. */
  readonly deviceMemory?: number;
  /** Resident memory of the process itself. Default {@linkcode PROCESS_BYTES}. */
  readonly processBytes?: number;
}

/**
 * Plans a run without reading or computing anything.
 *
 * @returns Plain data: the table, totals, export sizes, disk, peak memory, time.
 * @throws {RangeError} when the bits are too few for a layer, the size cannot be reached, or two budgets are given.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { describeModel } from "../model/describe.ts";
 * import { inventory } from "./inventory.ts";
 * import { planRun } from "./plan.ts";
 *
 * const model = describeModel({
 *   model_type: "llama", hidden_size: 64, intermediate_size: 160, num_hidden_layers: 2, num_attention_heads: 4,
 *   vocab_size: 320,
 * });
 * const report = planRun({ inventory: inventory(model), bitsPerWeight: 2 });
 * assertEquals(report.layers[0].rank, 64);
 * ```
 */
export function planRun(input: PlanInput): PlanReport {
  const { inventory: { model, layers, dense }, stages = [], dtype = "f32", gflops = DEFAULT_GFLOPS } = input;
  const storageOf = input.storageOf ?? dbfStorage;
  if ([input.bitsPerWeight, input.sizeBytes].every((budget) => budget !== undefined)) {
    throw new RangeError(
      `Cannot plan for bits and a size at once, give one: current value is ${input.bitsPerWeight} bits, ` +
        `${input.sizeBytes} bytes`,
    );
  }
  if (!(gflops > 0)) throw new RangeError(`Cannot estimate time at such a speed: current value is ${gflops} GFLOP/s`);
  const bitsPerWeight = input.sizeBytes === undefined
    ? input.bitsPerWeight ?? 2
    : bitsForSize(input.sizeBytes, layers, dense, model.blocks.length, dtype, storageOf);
  const planned = layers.map((layer) => planLayer(layer, bitsPerWeight, input.ranks, storageOf, stages));
  const storages = planned.map((layer) => storageOf(layer, layer.rank));
  const none = planned.map(() => undefined);
  const sizeOf = (type: "f32" | "f16", which: Parameters<typeof exportedBytes>[1], tensors = dense) =>
    exportedBytes(layers, which, tensors, model.blocks.length, type);
  const whole = dense.map(({ name, shape }) => ({ name, shape }));
  const exportBytes = { f32: sizeOf("f32", storages), f16: sizeOf("f16", storages) };
  const compressedParameters = sum(layers, ({ rows, cols }) => rows * cols);
  const mean = (of: (layer: PlannedLayer) => number) =>
    compressedParameters === 0
      ? 0
      : sum(planned, (layer) => of(layer) * layer.rows * layer.cols) / compressedParameters;
  const artefactBytes = sum(planned, (layer) => layer.packedBytes + COMMIT_BYTES_PER_LAYER);
  const scratch = input.scratch === undefined
    ? 0
    : scratchBytes(planned, { ...input.scratch, hiddenSize: model.hiddenSize });
  const factorizations = stages.filter(({ kind }) => kind === "factorization");
  const run = runShape(
    model,
    planned,
    input.calibration,
    (layer) => Math.max(0, ...factorizations.map(({ estimate }) => estimate(layer).peakBytes)),
  );
  const stageTotals = stages.map(({ kind, name, estimate, peakBytesOf, flopsOf }) => {
    const estimates = planned.map((layer) => estimate(layer));
    const flops = flopsOf?.(run) ?? sum(estimates, (one) => one.flops ?? 0);
    return {
      kind,
      name,
      peakBytes: peakBytesOf?.(run) ?? estimates.reduce((most, one) => Math.max(most, one.peakBytes), 0),
      whole: peakBytesOf !== undefined,
      flops,
      seconds: flops / gflops / 1e9,
    };
  });
  const flops = sum(stageTotals, (stage) => stage.flops);
  const denseElements = dense.map((tensor) => ({ ...tensor, elements: elementsOf(tensor.shape) }));
  const { peakBytes, peak } = peakMemory(planned, stageTotals, input);
  return {
    architecture: model.architecture,
    blocks: model.blocks.length,
    parameters: compressedParameters + sum(denseElements, ({ elements }) => elements),
    compressedParameters,
    dtype,
    bitsPerWeight,
    signBitsPerWeight: mean((layer) => layer.signBitsPerWeight),
    effectiveBitsPerWeight: mean((layer) => layer.effectiveBitsPerWeight),
    layers: planned,
    dense: denseElements,
    artefactBytes,
    exportBytes,
    uncompressedExportBytes: { f32: sizeOf("f32", none, whole), f16: sizeOf("f16", none, whole) },
    scratchBytes: scratch,
    diskBytes: artefactBytes + exportBytes[dtype] + scratch,
    peakBytes,
    peak,
    ...(input.deviceMemory === undefined ? {} : { deviceMemory: input.deviceMemory }),
    stages: stageTotals,
    flops,
    seconds: flops / gflops / 1e9,
    gflops,
  };
}

function planLayer(
  layer: LayerShape,
  bitsPerWeight: number,
  ranks: PlanInput["ranks"],
  storageOf: StorageOf,
  stages: readonly PlannedStage[],
): PlannedLayer {
  const allocated: AllocatedLayer = ranks?.get(layer.name) ?? (
    storageOf(layer, 1).ranked
      ? { rank: rankForBits(layer, bitsPerWeight), reason: `uniform ${bitsPerWeight} bits` }
      : { rank: 0, reason: "its own bits" }
  );
  const job = { ...layer, ...allocated }, storage = storageOf(job, allocated.rank);
  const estimates = stages.filter(({ kind }) => STAGE_SCOPES[kind] === "layer").map(({ estimate }) => estimate(job));
  return {
    ...job,
    kind: storage.kind,
    signBitsPerWeight: storage.codeBits / (layer.rows * layer.cols),
    effectiveBitsPerWeight: storedBitsPerWeight(layer, storage),
    packedBytes: storedBytes(storage, ARTEFACT_SCALE_BYTES),
    // Stages of one layer follow each other: the largest counts, and at least the weight itself is held.
    peakBytes: estimates.reduce((most, one) => Math.max(most, one.peakBytes), 4 * layer.rows * layer.cols),
    flops: sum(estimates, (one) => one.flops ?? 0),
  };
}

/** The largest of: parallel layer jobs under the lease, model and block stages, the export. */
function peakMemory(
  layers: readonly PlannedLayer[],
  stages: PlanReport["stages"],
  input: PlanInput,
): Pick<PlanReport, "peakBytes" | "peak"> {
  const processBytes = input.processBytes ?? PROCESS_BYTES;
  const largestPacked = layers.reduce((most, layer) => Math.max(most, layer.packedBytes), 0);
  let most = { bytes: EXPORT_CHUNK_BYTES + 2 * largestPacked, stage: "export", subject: "a chunk of dense weights" };
  const consider = (bytes: number, stage: string, subject: string) => {
    if (bytes > most.bytes) most = { bytes, stage, subject };
  };
  const byPeak = layers.toSorted((x, y) => y.peakBytes - x.peakBytes);
  if (byPeak.length > 0) {
    const together = sum(byPeak.slice(0, input.parallelJobs ?? 1), (layer) => layer.peakBytes);
    const bounded = Math.min(together, input.memoryBytes ?? Infinity);
    consider(Math.max(byPeak[0].peakBytes, bounded), "layers", byPeak[0].name);
  }
  for (const { kind, name, peakBytes, whole } of stages) {
    // A block's stage has layers factorized while it holds the block.
    const within = STAGE_SCOPES[kind] === "block" && !whole ? byPeak[0]?.peakBytes ?? 0 : 0;
    consider(peakBytes + within, name, whole ? "the whole run" : "its largest layer");
  }
  return {
    peakBytes: processBytes + most.bytes,
    peak: { stage: most.stage, subject: most.subject, processBytes },
  };
}
