/**
 * A decoder graph with its key/value cache: feeds ids, keeps the cache where it lives, hands out logits as tensors.
 *
 * @module
 */
import type { Runtime, Session, Tensor, ValueInfo } from "../../kernels/runtime/types.ts";

/** Prompts go through the model this many tokens at a time: bounds the logits that are computed along the way. */
const PREFILL_CHUNK = 256;

/** A loaded decoder, ready to start sequences. */
export interface Decoder {
  readonly session: Session;
  readonly runtime: Runtime;
  /** Length of a row of logits. */
  readonly vocabularySize: number;
  /** Starts a batch of sequences with an empty cache. */
  start(batch: number): DecoderState;
}

/** Sequences in progress. Disposing releases the cache. */
export interface DecoderState extends Disposable {
  readonly batch: number;
  /** Tokens so far, padding included. */
  readonly length: number;
  /**
   * Appends tokens and returns their logits `(batch, new, vocabulary)`, owned by the caller.
   *
   * @param ids Row-major `(batch, new)`.
   * @param mask 0 marks padding, `(batch, new)`; all ones by default.
   */
  append(ids: Int32Array, mask?: Uint8Array, signal?: AbortSignal): Promise<Tensor>;
  /**
   * Appends prompts of any lengths, padded on the left to the longest, and returns the logits of their last tokens,
   * `(batch, 1 … 256, vocabulary)`: only the last position counts.
   */
  prefill(prompts: readonly (readonly number[] | Int32Array)[], signal?: AbortSignal): Promise<Tensor>;
}

interface Cache {
  readonly past: ValueInfo;
  readonly present: string;
}

/**
 * Wraps a session of an exported decoder.
 *
 * @param session Inputs `input_ids` (int64), `attention_mask`, optionally `position_ids` and `past_key_values.N.key/value`;
 *   outputs `logits` and `present.N.key/value`.
 * @param runtime The runtime that loaded it.
 * @throws {TypeError} naming the input or output that is not a decoder's.
 */
export function openDecoder(session: Session, runtime: Runtime): Decoder {
  const logits = session.outputs.find(({ name }) => name === "logits");
  if (logits === undefined) {
    const names = session.outputs.map(({ name }) => name).slice(0, 4).join(", ");
    throw new TypeError(`Cannot use the graph as a decoder: it has no output "logits" but ${names}`);
  }
  const vocabularySize = logits.shape.at(-1);
  if (typeof vocabularySize !== "number" || vocabularySize < 1) {
    throw new TypeError(`Cannot use the graph as a decoder: the last dimension of "logits" is ${vocabularySize}`);
  }
  const caches: Cache[] = [];
  let positions = false;
  for (const input of session.inputs) {
    const match = /^past_key_values\.(\d+)\.(key|value)$/.exec(input.name);
    if (match !== null) caches.push({ past: input, present: `present.${match[1]}.${match[2]}` });
    else if (input.name === "position_ids") positions = true;
    else if (input.name !== "input_ids" && input.name !== "attention_mask") {
      throw new TypeError(`Cannot use the graph as a decoder: input "${input.name}" is not known`);
    }
  }
  return {
    session,
    runtime,
    vocabularySize,
    start: (batch) => startState(session, runtime, caches, positions, batch),
  };
}

function startState(
  session: Session,
  runtime: Runtime,
  caches: readonly Cache[],
  positions: boolean,
  batch: number,
): DecoderState {
  let past = caches.map(({ past }) => emptyCache(runtime, past, batch));
  let masks = Array.from({ length: batch }, () => [] as number[]);
  const release = () => {
    for (const tensor of past) tensor[Symbol.dispose]();
    past = [];
  };

  async function append(
    ids: Int32Array,
    mask: Uint8Array | undefined,
    signal: AbortSignal | undefined,
    wantLogits: boolean,
  ): Promise<Tensor | undefined> {
    const fresh = ids.length / batch;
    if (!Number.isInteger(fresh) || fresh === 0) {
      throw new RangeError(
        `Cannot append ${ids.length} ids to a batch of ${batch}: give the same number, 1 or more, to each`,
      );
    }
    masks = masks.map((row, index) => [
      ...row,
      ...Array.from({ length: fresh }, (_, place) => mask?.[index * fresh + place] ?? 1),
    ]);
    const length = masks[0].length;
    const int64 = (values: readonly number[] | Int32Array, columns: number) =>
      runtime.tensor("int64", BigInt64Array.from(values as number[], BigInt), [batch, columns]);
    const own: Record<string, Tensor> = { input_ids: int64(ids, fresh), attention_mask: int64(masks.flat(), length) };
    // Positions count real tokens only: padding on the left does not move a sequence.
    if (positions) own.position_ids = int64(masks.flatMap((row) => positionsOf(row).slice(length - fresh)), fresh);
    const feeds = { ...own };
    caches.forEach((cache, index) => feeds[cache.past.name] = past[index]);
    try {
      const outputs = [...(wantLogits ? ["logits"] : []), ...caches.map(({ present }) => present)];
      const results = await session.run(feeds, { outputs, signal });
      release();
      past = caches.map(({ present }) => results[present]);
      return results.logits;
    } finally {
      for (const tensor of Object.values(own)) tensor[Symbol.dispose]();
    }
  }

  return {
    batch,
    get length() {
      return masks[0].length;
    },
    append: async (ids, mask, signal) => (await append(ids, mask, signal, true))!,
    async prefill(prompts, signal) {
      const longest = Math.max(...prompts.map((prompt) => prompt.length));
      let logits: Tensor | undefined;
      // Without a cache everything has to go in at once.
      const chunk = caches.length === 0 ? longest : PREFILL_CHUNK;
      for (let start = 0; start < longest; start += chunk) {
        const end = Math.min(start + chunk, longest);
        const ids = new Int32Array(batch * (end - start));
        const mask = new Uint8Array(ids.length);
        prompts.forEach((prompt, row) => {
          for (let column = start; column < end; column++) {
            const index = column - (longest - prompt.length);
            if (index < 0) continue;
            ids[row * (end - start) + column - start] = prompt[index];
            mask[row * (end - start) + column - start] = 1;
          }
        });
        logits = await append(ids, mask, signal, end === longest);
      }
      if (logits === undefined) throw new RangeError("Cannot start from an empty prompt: give at least one token");
      return logits;
    },
    [Symbol.dispose]: release,
  };
}

/** Position of every token of a row: the number of real tokens before it; 0 for padding. */
function positionsOf(mask: readonly number[]): number[] {
  let count = 0;
  return mask.map((real) => real === 1 ? count++ : 0);
}

/** A cache of no tokens, `(batch, kvHeads, 0, headDim)`. */
function emptyCache(runtime: Runtime, past: ValueInfo, batch: number): Tensor {
  const [, heads, , size] = past.shape;
  if (past.shape.length !== 4 || typeof heads !== "number" || typeof size !== "number") {
    throw new TypeError(
      `Cannot use "${past.name}" of shape [${past.shape}] as a cache: it must be [batch, heads, length, size] with numbers for heads and size`,
    );
  }
  const data = past.dtype === "float32" ? new Float32Array(0) : new Uint16Array(0);
  return runtime.tensor(past.dtype, data, [batch, heads, 0, size]);
}
