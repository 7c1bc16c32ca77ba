/**
 * A decoder graph with its key/value cache: feeds ids, keeps the cache where it lives, hands out logits as tensors.
 *
 * @module
 */
import type { Runtime, Session, Tensor, ValueInfo } from "../../kernels/runtime/types.ts";

/** Prompts go through the model at most this many tokens at a time … */
const PREFILL_CHUNK = 256;

/** … and fewer where a batch would have more logits than this, as they are computed along the way: 256 MiB in float32. */
const PREFILL_LOGITS = 2 ** 26;

/** A loaded decoder, ready to start sequences. */
export interface Decoder {
  readonly session: Session;
  readonly runtime: Runtime;
  /** Length of a row of logits. */
  readonly vocabularySize: number;
  /** Bytes of the cache for one token of one sequence. */
  readonly cacheBytes: number;
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
    cacheBytes: caches.reduce((bytes, { past }) => bytes + tokenBytes(past), 0),
    start: (batch) => startState(session, runtime, caches, positions, batch, vocabularySize),
  };
}

function startState(
  session: Session,
  runtime: Runtime,
  caches: readonly Cache[],
  positions: boolean,
  batch: number,
  vocabularySize: number,
): DecoderState {
  let past = caches.map(({ past }) => emptyCache(runtime, past, batch));
  const mask = growingMask(batch);
  const release = () => {
    for (const tensor of past) tensor[Symbol.dispose]();
    past = [];
  };

  async function append(
    ids: Int32Array,
    added: Uint8Array | undefined,
    signal: AbortSignal | undefined,
    wantLogits: boolean,
  ): Promise<Tensor | undefined> {
    const fresh = ids.length / batch;
    if (!Number.isInteger(fresh) || fresh === 0) {
      throw new RangeError(
        `Cannot append ${ids.length} ids to a batch of ${batch}: give the same number, 1 or more, to each`,
      );
    }
    const fed = mask.append(fresh, added), { length } = mask;
    const own: Record<string, Tensor> = {
      input_ids: runtime.tensor("int64", BigInt64Array.from(ids, BigInt), [batch, fresh]),
      attention_mask: runtime.tensor("int64", mask.values(), [batch, length]),
    };
    if (positions) own.position_ids = runtime.tensor("int64", fed, [batch, fresh]);
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
      return mask.length;
    },
    append: async (ids, added, signal) => (await append(ids, added, signal, true))!,
    async prefill(prompts, signal) {
      const longest = Math.max(...prompts.map((prompt) => prompt.length));
      let logits: Tensor | undefined;
      // Without a cache everything has to go in at once.
      const fitting = Math.max(1, Math.floor(PREFILL_LOGITS / (batch * vocabularySize)));
      const chunk = caches.length === 0 ? longest : Math.min(PREFILL_CHUNK, fitting);
      for (let start = 0; start < longest; start += chunk) {
        const end = Math.min(start + chunk, longest);
        const ids = new Int32Array(batch * (end - start));
        const real = new Uint8Array(ids.length);
        prompts.forEach((prompt, row) => {
          for (let column = start; column < end; column++) {
            const index = column - (longest - prompt.length);
            if (index < 0) continue;
            ids[row * (end - start) + column - start] = prompt[index];
            real[row * (end - start) + column - start] = 1;
          }
        });
        logits = await append(ids, real, signal, end === longest);
      }
      if (logits === undefined) throw new RangeError("Cannot start from an empty prompt: give at least one token");
      return logits;
    },
    [Symbol.dispose]: release,
  };
}

/** Which tokens of each sequence are real. */
interface GrowingMask {
  /** Tokens a sequence. */
  readonly length: number;
  /**
   * Adds tokens, all real unless `added` `(batch, fresh)` has a 0, and returns their positions `(batch, fresh)`. Positions count real tokens
   * only, as padding on the left does not move a sequence; padding has 0.
   */
  append(fresh: number, added: Uint8Array | undefined): BigInt64Array<ArrayBuffer>;
  /** `(batch, length)`, 1 for real tokens. */
  values(): BigInt64Array<ArrayBuffer>;
}

function growingMask(batch: number): GrowingMask {
  let length = 0, capacity = 256;
  let rows = Array.from({ length: batch }, () => new BigInt64Array(capacity));
  const counts = new Array<bigint>(batch).fill(0n);
  return {
    get length() {
      return length;
    },
    append(fresh, added) {
      while (length + fresh > capacity) capacity *= 2;
      const places = new BigInt64Array(batch * fresh);
      rows = rows.map((row, index) => {
        let wide = row;
        if (row.length < capacity) {
          wide = new BigInt64Array(capacity);
          wide.set(row);
        }
        for (let place = 0; place < fresh; place++) {
          const real = (added?.[index * fresh + place] ?? 1) !== 0;
          wide[length + place] = real ? 1n : 0n;
          if (real) places[index * fresh + place] = counts[index]++;
        }
        return wide;
      });
      length += fresh;
      return places;
    },
    values() {
      const all = new BigInt64Array(batch * length);
      rows.forEach((row, index) => all.set(row.subarray(0, length), index * length));
      return all;
    },
  };
}

function cacheShape(past: ValueInfo): { readonly heads: number; readonly size: number } {
  const [, heads, , size] = past.shape;
  if (past.shape.length !== 4 || typeof heads !== "number" || typeof size !== "number") {
    throw new TypeError(
      `Cannot use "${past.name}" of shape [${past.shape}] as a cache: it must be [batch, heads, length, size] with numbers for heads and size`,
    );
  }
  return { heads, size };
}

function tokenBytes(past: ValueInfo): number {
  const { heads, size } = cacheShape(past);
  return heads * size * (past.dtype === "float32" ? 4 : 2);
}

/** A cache of no tokens, `(batch, kvHeads, 0, headDim)`. */
function emptyCache(runtime: Runtime, past: ValueInfo, batch: number): Tensor {
  const { heads, size } = cacheShape(past);
  const data = past.dtype === "float32" ? new Float32Array(0) : new Uint16Array(0);
  return runtime.tensor(past.dtype, data, [batch, heads, 0, size]);
}
