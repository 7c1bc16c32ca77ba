/**
 * Token embeddings of calibration windows: the input of the first block.
 *
 * @module
 */
import type { Runtime, Tensor } from "../../kernels/runtime/types.ts";
import type { CheckpointReader } from "../checkpoint/types.ts";
import type { ModelDescription } from "../model/types.ts";
import type { ActivationSource } from "./activations.ts";
import { freeArrays, moveToTensor } from "./move_array.ts";

/** Embeds windows of token ids: `(windows, tokens, hidden)` f32, scaled as the model says. */
export interface Embed extends Disposable {
  (windows: readonly Int32Array[]): Promise<Float32Array>;
}

/** Most bytes of rows that are kept once read: 29 thousand rows of SmolLM2-135M, 2 thousand of a model of width 8192. */
const KEPT_BYTES = 2 ** 26;

/** Most bytes that an open embedding holds. */
export function embeddingBytes({ vocabularySize, hiddenSize }: ModelDescription): number {
  return Math.min(4 * vocabularySize * hiddenSize, KEPT_BYTES);
}

/** @throws {RangeError} when a token id is outside the vocabulary. */
export function requireToken(token: number, entries: number): void {
  if (token >= 0 && token < entries) return;
  throw new RangeError(`Cannot embed token ${token}: the vocabulary has ${entries} entries`);
}

/**
 * Returns a function that looks rows of the embedding matrix up. The matrix is never read as a whole: rows are read when a
 * token first needs them and kept up to `keptBytes` (64 MiB), which the frequent tokens fill; of the others each is read once a call.
 *
 * @throws {RangeError} from the returned function when a token id is outside the vocabulary.
 */
export function openEmbedding(
  checkpoint: Pick<CheckpointReader, "tensor">,
  model: Pick<ModelDescription, "embedding" | "hiddenSize" | "embeddingScale">,
  keptBytes = KEPT_BYTES,
): Embed {
  const table = checkpoint.tensor(model.embedding);
  const { hiddenSize, embeddingScale } = model;
  const [entries] = table.shape;
  const most = Math.min(entries, Math.floor(keptBytes / 4 / hiddenSize));
  const kept = new Float32Array(most * hiddenSize);
  const slots = new Map<number, number>();
  const embed = async (windows: readonly Int32Array[]) => {
    const tokens = windows[0]?.length ?? 0;
    const rows = new Float32Array(windows.length * tokens * hiddenSize);
    /** Where in `rows` the first of those tokens is that are not kept. */
    const places = new Map<number, number>();
    let at = 0;
    for (const window of windows) {
      for (const token of window) {
        requireToken(token, entries);
        const slot = slots.get(token), place = places.get(token);
        if (slot !== undefined) rows.set(kept.subarray(slot * hiddenSize, (slot + 1) * hiddenSize), at);
        else if (place !== undefined) rows.copyWithin(at, place, place + hiddenSize);
        else {
          const row = await table.readRows(token, token + 1);
          rows.set(row, at);
          if (slots.size < most) {
            kept.set(row, slots.size * hiddenSize);
            slots.set(token, slots.size);
          } else places.set(token, at);
          freeArrays([row]);
        }
        at += hiddenSize;
      }
    }
    if (embeddingScale !== 1) { for (let index = 0; index < rows.length; index++) rows[index] *= embeddingScale; }
    return rows;
  };
  return Object.assign(embed, { [Symbol.dispose]: () => freeArrays([kept]) });
}

/**
 * Embeddings of windows as activations that are made when they are asked for and stored nowhere.
 *
 * @param embed Gives `(windows, tokens, features)` f32 on the device.
 */
export function embeddedBy(
  embed: (windows: readonly Int32Array[]) => Promise<Tensor>,
  features: number,
  windows: readonly Int32Array[],
): ActivationSource {
  return {
    windows: windows.length,
    tokens: windows[0].length,
    features,
    tensor: (indices) => embed(indices.map((index) => windows[index])),
    [Symbol.dispose]: () => {},
  };
}

/** The same by {@linkcode openEmbedding}. */
export function embeddedWindows(
  runtime: Runtime,
  checkpoint: CheckpointReader,
  model: ModelDescription,
  windows: readonly Int32Array[],
): ActivationSource {
  const embed = openEmbedding(checkpoint, model);
  const { hiddenSize } = model;
  const onDevice = async (chosen: readonly Int32Array[]) =>
    moveToTensor(runtime, await embed(chosen), [chosen.length, chosen[0].length, hiddenSize]);
  return { ...embeddedBy(onDevice, hiddenSize, windows), [Symbol.dispose]: () => embed[Symbol.dispose]() };
}
