/**
 * Diagonal importance of every linear from calibration windows, block by block: forward storing the inputs of each block
 * for a chunk of windows, then backward from the loss, recomputing each block.
 *
 * @module
 */
import type { Tensor } from "../../kernels/runtime/types.ts";
import type { LayerImportance } from "../stream/stage.ts";
import { batchesOf } from "./activations.ts";
import { batchWindows } from "./batch_size.ts";
import type { BlockGraphOptions } from "./block_graph.ts";
import { bytesFor } from "./device_memory.ts";
import { openEmbedding } from "./embedding.ts";
import { type BlockEngine, disposeFeeds, emptyOutputs, type Feeds, feedsFor, readFloats } from "./engine.ts";
import { openHead } from "./head.ts";
import { moveToTensor } from "./move_array.ts";

/** How importance is gathered. */
export interface ImportanceOptions {
  /** Tokens a run, in whole windows. Default 2048. */
  readonly batchTokens?: number;
  /** Bytes of stored block inputs, which decide how many windows go through at once. Default 256 MiB, on a GPU half of `Runtime.deviceMemory`. */
  readonly storeBytes?: number;
  /** See {@linkcode BlockGraphOptions.clipQuantile}. Default 1. */
  readonly clipQuantile?: number;
  readonly signal?: AbortSignal;
  /** Called after each block of each chunk with steps done and all steps. */
  readonly progress?: (done: number, total: number) => void;
}

/** Statistics by weight name, and the calibration loss of the full-precision model in nats a token (0 without gradients). */
export interface ImportanceResult {
  readonly layers: ReadonlyMap<string, LayerImportance>;
  readonly loss: number;
}

/** Adds `part` to the sum under `name`. */
function accumulate(sums: Map<string, Float64Array>, name: string, part: Float32Array): void {
  let sum = sums.get(name);
  if (sum === undefined) sums.set(name, sum = new Float64Array(part.length));
  for (let index = 0; index < part.length; index++) sum[index] += part[index];
}

/**
 * Diagonal Fisher information: E[x²] of inputs and E[g²] of outputs, g being the gradient of the summed next-token
 * cross-entropy; both are means over all calibration tokens.
 *
 * @param windows Token ids, windows of equal length.
 * @throws {RangeError} when there are no windows.
 */
export function fisherDiagonal(
  engine: BlockEngine,
  windows: readonly Int32Array[],
  options: ImportanceOptions = {},
): Promise<ImportanceResult> {
  return gather(engine, windows, options, true);
}

/** E[x²] of inputs only; outputs get 1. No gradient is needed, so it takes a third of the time. */
export function activationStatistics(
  engine: BlockEngine,
  windows: readonly Int32Array[],
  options: ImportanceOptions = {},
): Promise<ImportanceResult> {
  return gather(engine, windows, options, false);
}

async function gather(
  engine: BlockEngine,
  windows: readonly Int32Array[],
  options: ImportanceOptions,
  backward: boolean,
): Promise<ImportanceResult> {
  const { model, runtime } = engine;
  const { blocks, hiddenSize } = model;
  const { batchTokens = 2048, storeBytes = bytesFor(runtime, "block inputs"), clipQuantile, signal } = options;
  const batch = batchWindows(batchTokens, windows, "importance");
  const tokens = windows[0].length;
  const perWindow = 4 * tokens * hiddenSize * (backward ? blocks.length + 2 : 3);
  const chunk = Math.max(batch, Math.floor(storeBytes / perWindow / batch) * batch);
  const chunks = batchesOf(windows.length, chunk);
  const total = chunks.length * blocks.length * (backward ? 2 : 1);
  const sums = new Map<string, Float64Array>();
  let done = 0;
  let loss = 0;
  const graph = (kind: BlockGraphOptions["kind"], block: number, size: number) =>
    engine.session(blocks[block], {
      kind,
      batch: size,
      tokens,
      clipQuantile,
      linears: new Map(blocks[block].linears.map(({ role }) => [role, "frozen"])),
    });
  using embed = openEmbedding(engine.checkpoint, model);
  await using head = backward ? await openHead(runtime, model, engine.checkpoint) : undefined;
  /** Runs a graph of a block on one batch; what it returns beside `kept` is added to the sums. */
  const runOn = async (
    kind: BlockGraphOptions["kind"],
    block: number,
    feeds: Feeds,
    kept: "y" | "x_gradient",
    given: Feeds & { readonly x: Tensor },
  ): Promise<Tensor> => {
    const session = await graph(kind, block, given.x.shape[0]);
    const into = emptyOutputs(runtime, session);
    const { [kept]: result, ...statistics } = await session.run(feedsFor(session, feeds, given), { into });
    for (const [name, value] of Object.entries(statistics)) {
      accumulate(sums, `${block}/${name}`, await readFloats(value));
    }
    return result;
  };

  for (const indices of chunks) {
    const parts = batchesOf(indices.length, batch).map((part) => part.map((index) => windows[indices[index]]));
    // stored[block][part]: input of the block; after the last block, the model's output
    const embedded: Tensor[] = [];
    for (const part of parts) {
      embedded.push(moveToTensor(runtime, await embed(part), [part.length, tokens, hiddenSize]));
    }
    let stored = [embedded];
    for (let block = 0; block < blocks.length; block++) {
      signal?.throwIfAborted();
      const feeds = { ...await engine.vectors(blocks[block]), ...await engine.weights(blocks[block]) };
      const inputs = stored[stored.length - 1], outputs: Tensor[] = [];
      for (const x of inputs) {
        outputs.push(await runOn(backward ? "forward" : "input-statistics", block, feeds, "y", { x }));
      }
      disposeFeeds(feeds);
      if (!backward) inputs.forEach((x) => x[Symbol.dispose]());
      stored = backward ? [...stored, outputs] : [outputs];
      options.progress?.(++done, total);
    }
    const gradients: Tensor[] = [];
    for (const [at, hidden] of stored.pop()!.entries()) {
      using output = hidden;
      if (head === undefined) continue;
      const found = await head.crossEntropyGradient(output, parts[at]);
      loss += found.loss;
      gradients.push(found.gradient);
    }
    for (let block = blocks.length - 1; block >= 0 && backward; block--) {
      signal?.throwIfAborted();
      const feeds = { ...await engine.vectors(blocks[block]), ...await engine.weights(blocks[block]) };
      for (const [at, input] of stored.pop()!.entries()) {
        using x = input;
        using gradient = gradients[at];
        gradients[at] = await runOn("statistics", block, feeds, "x_gradient", { x, gradient });
      }
      disposeFeeds(feeds);
      options.progress?.(++done, total);
    }
    gradients.forEach((gradient) => gradient[Symbol.dispose]());
  }

  const count = windows.length * tokens;
  const mean = (name: string) => Float32Array.from(sums.get(name)!, (sum) => sum / count);
  const layers = new Map<string, LayerImportance>();
  for (const [position, block] of blocks.entries()) {
    for (const { role, weight, rows } of block.linears) {
      const input = mean(`${position}/input/${role}`);
      const output = backward ? mean(`${position}/output/${role}`) : new Float32Array(rows).fill(1);
      layers.set(weight, { input, output });
    }
  }
  return { layers, loss: loss / Math.max(1, windows.length * (tokens - 1)) };
}
