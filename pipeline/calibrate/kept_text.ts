/**
 * Batches of generated windows in files, each named by what decides it.
 *
 * @module
 */
import { join } from "node:path";
import { readFileIfThere, sha256, writeFileDurably } from "../artefact/durable.ts";
import { canonicalJson } from "../artefact/fingerprint.ts";

/** Windows that are generated together. */
export interface TextBatch {
  /** Token ids that each window starts with. */
  readonly prompts: readonly (readonly number[])[];
  /** Tokens a window. */
  readonly length: number;
  readonly seed: number;
}

/** Windows with their prompts in place, zeros behind them. */
export function startWindows({ prompts, length }: Pick<TextBatch, "prompts" | "length">): Int32Array[] {
  return prompts.map((prompt) => {
    const window = new Int32Array(length);
    window.set(prompt);
    return window;
  });
}

/** Where batches are kept. */
export interface KeptText {
  /** The windows of a batch; `undefined` where they were not kept, or their file is damaged. */
  read(batch: TextBatch): Promise<Int32Array[] | undefined>;
  write(batch: TextBatch, windows: readonly Int32Array[]): Promise<void>;
}

/** Bytes of the hash that a file begins with. */
const HASH_BYTES = 32;

/**
 * Keeps batches in a directory, which is made where it does not exist. A file `KEY.ids` holds SHA-256 of the key and the ids, then
 * the ids of all windows, little-endian 32-bit; the key is a hash of `source`, prompts, length and seed. It may be copied to another directory.
 *
 * @param options `source` is a hash of what else decides the text: model, provider, and so on. `notice` is told what is read,
 *   and what is damaged and so made again.
 */
export function keptText(options: {
  readonly directory: string;
  readonly source: string;
  readonly vocabularySize: number;
  readonly notice: (message: string) => void;
}): KeptText {
  const { directory, source, vocabularySize, notice } = options;
  const keyOf = ({ prompts, length, seed }: TextBatch) => sha256(canonicalJson([source, prompts, length, seed]));
  const pathOf = (key: string) => join(directory, `${key.slice(0, 32)}.ids`);
  return {
    async read(batch) {
      const key = keyOf(batch), path = pathOf(key);
      const bytes = await readFileIfThere(path);
      if (bytes === undefined) return undefined;
      const windows = decode(bytes, key, batch, vocabularySize);
      notice(
        windows === undefined
          ? `text of the model's own that was kept in ${path} is damaged and made again`
          : `text of the model's own that was kept is used: ${path}`,
      );
      return windows;
    },
    async write(batch, windows) {
      const key = keyOf(batch);
      await Deno.mkdir(directory, { recursive: true });
      await writeFileDurably(pathOf(key), encode(windows, key, batch.length));
    },
  };
}

const hashOf = (key: string, ids: Uint8Array): string => sha256(key + sha256(ids));

function encode(windows: readonly Int32Array[], key: string, length: number): Uint8Array {
  const bytes = new Uint8Array(HASH_BYTES + 4 * length * windows.length);
  const view = new DataView(bytes.buffer, HASH_BYTES);
  windows.forEach((window, at) =>
    window.forEach((id, place) => view.setInt32(4 * (at * length + place), id, LITTLE_ENDIAN))
  );
  bytes.set(Uint8Array.fromHex(hashOf(key, bytes.subarray(HASH_BYTES))));
  return bytes;
}

const LITTLE_ENDIAN = true;

function decode(
  bytes: Uint8Array<ArrayBuffer>,
  key: string,
  { prompts, length }: TextBatch,
  vocabularySize: number,
): Int32Array[] | undefined {
  if (bytes.length !== HASH_BYTES + 4 * length * prompts.length) return undefined;
  const ids = bytes.subarray(HASH_BYTES);
  if (bytes.subarray(0, HASH_BYTES).toHex() !== hashOf(key, ids)) return undefined;
  const view = new DataView(bytes.buffer, HASH_BYTES);
  const windows = prompts.map((_, at) =>
    Int32Array.from({ length }, (_, place) => view.getInt32(4 * (at * length + place), LITTLE_ENDIAN))
  );
  return windows.every((window) => window.every((id) => id >= 0 && id < vocabularySize)) ? windows : undefined;
}
