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
import { mostLogits } from "./head.ts";

/** Arenas of sessions with fixed shapes, over what is alive at once. */
const ARENA = 1.3;
/** Arenas grow in powers of two and lengths of chunks differ: bytes of the losses' sessions, over those of one chunk's logits (measured: 13 at 2048 and at 49152 entries). */
const CROSS_ENTROPY_ARENA = 13.5;
const DIVERGENCE_ARENA = 17;
/** Arrays of JavaScript that are not collected yet. */
const GARBAGE_BYTES = 2 ** 26;

const weightsOf = ({ linears }: BlockDescription) => linears.reduce((sum, { rows, cols }) => sum + rows * cols, 0);

/** The block with most weights. */
function largestBlock({ model }: RunShape): BlockDescription {
  return model.blocks.reduce((most, block) => weightsOf(block) > weightsOf(most) ? block : most);
}

/** Windows of about `tokens` tokens together. */
function batchOf({ calibration: { windows, tokens } }: RunShape, wanted: number, least = 1): number {
  return Math.min(windows, Math.max(least, Math.round(wanted / tokens)));
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
  return ARENA * liveBytes(graph);
}

function lossBytes({ model, calibration: { tokens } }: RunShape, batch: number, arena: number): number {
  const { vocabularySize } = model;
  return arena * 4 * vocabularySize * Math.min(batch * tokens, Math.max(1, mostLogits("cpu") / vocabularySize));
}

/** Of importance: the stored inputs of a chunk, tables of embedding and head, the block's weights, and sessions. */
export function importanceBytes(
  run: RunShape,
  options: { readonly batchTokens: number; readonly storeBytes: number; readonly backward: boolean },
): number {
  const { model, calibration: { windows, tokens } } = run;
  if (windows === 0) return 0;
  const batch = batchOf(run, options.batchTokens);
  const table = 4 * model.vocabularySize * model.hiddenSize;
  const perWindow = 4 * tokens * model.hiddenSize * (options.backward ? model.blocks.length + 2 : 3);
  const stored = perWindow * Math.min(windows, Math.max(batch, Math.floor(options.storeBytes / perWindow)));
  const weights = 3 * 4 * weightsOf(largestBlock(run));
  if (!options.backward) return table + stored + weights + graphBytes(run, "input-statistics", batch, "frozen");
  const loss = lossBytes(run, batch, CROSS_ENTROPY_ARENA);
  // what is stored shrinks while the backward pass goes down the blocks
  const peak = Math.max(stored + loss, stored / 2 + loss + graphBytes(run, "statistics", batch, "frozen"));
  return 3 * table + weights + graphBytes(run, "forward", batch, "frozen") + peak;
}

/** Of the tuning of a block: factorizations inside it, the weights with gradient and moments, and sessions. */
export function tuningBytes(run: RunShape, { batchTokens }: { readonly batchTokens: number }): number {
  if (run.calibration.windows === 0) return run.factorizationBytes;
  const batch = batchOf(run, batchTokens);
  return GARBAGE_BYTES + run.factorizationBytes + 12 * 4 * weightsOf(largestBlock(run)) +
    1.5 * graphBytes(run, "tune", batch, "trained") + graphBytes(run, "forward", batch, "frozen");
}

/** Of the distillation: state up to `residentBytes`, the head, one block's gradients, sessions, and those that the factorization keeps. */
export function distillationBytes(
  run: RunShape,
  { batchTokens, residentBytes }: { readonly batchTokens: number; readonly residentBytes: number },
): number {
  const { model, layers } = run;
  const signs = layers.reduce((sum, { rank, rows, cols }) => sum + rank * (rows + cols), 0);
  const batch = batchOf(run, batchTokens, 2);
  const table = 4 * model.vocabularySize * model.hiddenSize;
  return GARBAGE_BYTES + run.factorizationBytes + Math.min(residentBytes, 12 * signs) +
    16 * signs / model.blocks.length + 2 * table + lossBytes(run, batch, DIVERGENCE_ARENA) +
    graphBytes(run, "backward", batch, "compressed") + graphBytes(run, "forward", batch, "compressed");
}
