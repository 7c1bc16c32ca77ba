/**
 * Token embeddings of calibration windows: the input of the first block.
 *
 * @module
 */
import type { CheckpointReader } from "../checkpoint/types.ts";
import type { ModelDescription } from "../model/types.ts";
import { freeArrays } from "./move_array.ts";

/** Embeds windows of token ids: `(windows, tokens, hidden)` f32, scaled as the model says. */
export interface Embed extends Disposable {
  (windows: readonly Int32Array[]): Float32Array;
}

/**
 * Reads the embedding matrix and returns a function that looks rows up; the matrix is held as long as the function is.
 *
 * @throws {RangeError} from the returned function when a token id is outside the vocabulary.
 */
export async function openEmbedding(checkpoint: CheckpointReader, model: ModelDescription): Promise<Embed> {
  const table = await checkpoint.tensor(model.embedding).read();
  const { hiddenSize, embeddingScale } = model;
  const entries = table.length / hiddenSize;
  const embed = (windows: readonly Int32Array[]) => {
    const tokens = windows[0]?.length ?? 0;
    const rows = new Float32Array(windows.length * tokens * hiddenSize);
    let at = 0;
    for (const window of windows) {
      for (const token of window) {
        if (token < 0 || token >= entries) {
          throw new RangeError(`Cannot embed token ${token}: the vocabulary has ${entries} entries`);
        }
        rows.set(table.subarray(token * hiddenSize, (token + 1) * hiddenSize), at);
        at += hiddenSize;
      }
    }
    if (embeddingScale !== 1) { for (let index = 0; index < rows.length; index++) rows[index] *= embeddingScale; }
    return rows;
  };
  return Object.assign(embed, { [Symbol.dispose]: () => freeArrays([table]) });
}
