/**
 * Memory of the calibrated stages on a whole model, for plans and leases: what is held, and what graphs need while they run.
 * Bytes beside the process itself, on the CPU.
 *
 * @module
 */
import { liveBytes } from "../graph/live_bytes.ts";
import type { BlockDescription } from "../model/types.ts";
import type { RunShape } from "../stream/stage.ts";
import { type BlockGraphKind, buildBlockGraph, type LinearTreatment } from "./block_graph.ts";
import { windowsPerBatch } from "./batch_size.ts";
import { embeddingBytes } from "./embedding.ts";
import { mostLogits } from "./head.ts";
import { teacherWindows } from "./teacher.ts";

/** Arenas of training sessions, over what is alive at once: freed pieces are not always where the next one fits. */
const ARENA = 1.5;
/** The same of importance, whose passes leave less behind. */
const STATISTICS_ARENA = 1.25;
/** Bytes of the losses' sessions, over those of one chunk's logits. */
const CROSS_ENTROPY_ARENA = 6.5;
const DIVERGENCE_ARENA = 11;
/** Arrays of JavaScript that are not collected yet. */
const GARBAGE_BYTES = 2 ** 26;
/** Vectors as long as the trained one that a step of the optimizer takes beside it, its moments and its gradient: the next three, and what it works in. */
const STEP_VECTORS = 3 + 3.2;

const weightsOf = ({ linears }: BlockDescription) => linears.reduce((sum, { rows, cols }) => sum + rows * cols, 0);

/** The block with most weights. */
function largestBlock({ model }: RunShape): BlockDescription {
  return model.blocks.reduce((most, block) => weightsOf(block) > weightsOf(most) ? block : most);
}

/** Windows of about `tokens` tokens together. */
function batchOf({ calibration: { windows, tokens } }: RunShape, wanted: number, least = 1): number {
  return windowsPerBatch(wanted, windows, tokens, least);
}

function graphBytes(run: RunShape, kind: BlockGraphKind, batch: number, treatment: LinearTreatment | "compressed") {
  const block = largestBlock(run);
  const ranks = new Map(run.layers.map(({ name, rank }) => [name, rank]));
  const linears = new Map(block.linears.map(({ role, weight }): [string, LinearTreatment] => {
    const rank = ranks.get(weight) ?? 0;
    if (treatment !== "compressed") return [role, treatment];
    return [role, rank > 0 ? { kind: "dbf", rank } : "frozen"];
  }));
  const graph = buildBlockGraph(run.model, block, {
    kind,
    batch,
    tokens: run.calibration.tokens,
    linears,
    relative: true,
  });
  return liveBytes(graph);
}

function lossBytes({ model, calibration: { tokens } }: RunShape, batch: number, arena: number): number {
  const { vocabularySize } = model;
  return arena * 4 * vocabularySize * Math.min(batch * tokens, Math.max(1, mostLogits("cpu") / vocabularySize));
}

/** Of importance: the stored inputs of a chunk, rows of the embedding and the head, the block's weights, and sessions. */
export function importanceBytes(
  run: RunShape,
  options: { readonly batchTokens: number; readonly storeBytes: number; readonly backward: boolean },
): number {
  const { model, calibration: { windows, tokens } } = run;
  if (windows === 0) return 0;
  const batch = batchOf(run, options.batchTokens);
  const head = 4 * model.vocabularySize * model.hiddenSize, embedding = embeddingBytes(model);
  const perWindow = 4 * tokens * model.hiddenSize * (options.backward ? model.blocks.length + 2 : 3);
  const stored = perWindow * Math.min(windows, Math.max(batch, Math.floor(options.storeBytes / perWindow)));
  const weights = 4 * weightsOf(largestBlock(run));
  if (!options.backward) {
    return embedding + stored + weights + ARENA * graphBytes(run, "input-statistics", batch, "frozen");
  }
  return embedding + head + stored + weights + lossBytes(run, batch, CROSS_ENTROPY_ARENA) +
    STATISTICS_ARENA * (graphBytes(run, "forward", batch, "frozen") + graphBytes(run, "statistics", batch, "frozen"));
}

/** Of the tuning of a block: the weights with gradient and moments and a session, or without them the factorization of a layer. */
export function tuningBytes(run: RunShape, { batchTokens }: { readonly batchTokens: number }): number {
  const { kept, largest } = run.factorizationBytes;
  if (run.calibration.windows === 0) return Math.max(kept, largest);
  const batch = batchOf(run, batchTokens);
  const weights = 4 * weightsOf(largestBlock(run));
  const tuning = kept + (3 + STEP_VECTORS) * weights + ARENA * graphBytes(run, "tune", batch, "trained");
  const forward = kept + weights + ARENA * graphBytes(run, "forward", batch, "frozen");
  return GARBAGE_BYTES + Math.max(tuning, forward, weights + Math.max(kept, largest));
}

/**
 * Of the distillation: state up to `residentBytes`, one block's state and its gradients, inputs of all blocks, the head, rows
 * of an embedding that is not the head, and sessions; where the teacher is computed between steps, a block's weights and the session of that too.
 */
export function distillationBytes(
  run: RunShape,
  { batchTokens, residentBytes, teacherBytes }: {
    readonly batchTokens: number;
    readonly residentBytes: number;
    readonly teacherBytes: number;
  },
): number {
  const { model, layers, calibration: { windows, tokens } } = run;
  const signs = layers.reduce((sum, { rank, rows, cols }) => sum + rank * (rows + cols), 0);
  const own = new Map<number, number>();
  for (const { block, rank, rows, cols } of layers) own.set(block, (own.get(block) ?? 0) + rank * (rows + cols));
  const largest = Math.max(0, ...own.values());
  const batch = batchOf(run, batchTokens, 2);
  // a block beyond what is resident is read from its file for each turn
  const opened = 12 * signs > residentBytes ? 2 * 12 * largest : 0;
  // half-precision latents of a block, as they were read and decoded, are collected late
  const read = 2 * 2 * largest;
  const between = teacherWindows({ windows, tokens, features: model.hiddenSize }, batch, teacherBytes) < windows;
  const teacher = between ? 4 * weightsOf(largestBlock(run)) + ARENA * graphBytes(run, "forward", batch, "frozen") : 0;
  const embedding = model.tiedHead ? 0 : embeddingBytes(model);
  return GARBAGE_BYTES + teacher + embedding + Math.min(residentBytes, 12 * signs) + opened + read +
    4 * STEP_VECTORS * largest +
    4 * batch * tokens * model.hiddenSize * (model.blocks.length + 3) + 4 * model.vocabularySize * model.hiddenSize +
    lossBytes(run, batch, DIVERGENCE_ARENA) +
    ARENA * (graphBytes(run, "backward", batch, "compressed") + graphBytes(run, "forward", batch, "compressed"));
}
