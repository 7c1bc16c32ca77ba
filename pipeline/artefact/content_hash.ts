/**
 * Content hashes of a checkpoint's tensors: fine-tunes of one base have equal headers, so names and shapes do not tell
 * them apart.
 *
 * @module
 */
import { createHash, type Hash } from "node:crypto";
import type { CheckpointReader, TensorHandle } from "../checkpoint/types.ts";

/** Scales of an 8-bit weight lie beside it and belong to its content. */
function scaleOf(checkpoint: Pick<CheckpointReader, "tensors">, name: string): TensorHandle | undefined {
  return checkpoint.tensors.get(`${name}_scale_inv`) ?? checkpoint.tensors.get(`${name}_scale`);
}

/** A content hash under way: feed the tensor's stored bytes, then finish. */
export interface ContentHash {
  readonly update: (chunk: Uint8Array) => void;
  /** Adds what lies beside the tensor and gives SHA-256 in hexadecimal. */
  finish(): Promise<string>;
}

/** Starts the content hash of `name`. */
export function startContentHash(checkpoint: Pick<CheckpointReader, "tensors">, name: string): ContentHash {
  const hash: Hash = createHash("sha256");
  return {
    update: (chunk) => void hash.update(chunk),
    async finish() {
      const scale = scaleOf(checkpoint, name);
      if (scale !== undefined) { for await (const chunk of scale.bytes()) hash.update(chunk); }
      return hash.digest("hex");
    },
  };
}

const contents = new WeakMap<CheckpointReader, Promise<readonly string[]>>();

/** Content hashes of all tensors, in the order of their names. The checkpoint is read once, however often it is asked for. */
export function contentHashes(checkpoint: CheckpointReader, signal: AbortSignal): Promise<readonly string[]> {
  let found = contents.get(checkpoint);
  if (found === undefined) {
    found = hashAll(checkpoint, signal);
    contents.set(checkpoint, found);
    found.catch(() => contents.delete(checkpoint));
  }
  return found;
}

async function hashAll(checkpoint: CheckpointReader, signal: AbortSignal): Promise<readonly string[]> {
  const hashes: string[] = [];
  for (const name of [...checkpoint.tensors.keys()].sort()) hashes.push(await contentHash(checkpoint, name, signal));
  return hashes;
}

/**
 * Content hash of a tensor: SHA-256 over its stored bytes and those of its scale.
 *
 * @throws {Error} when its file was cut short.
 */
export async function contentHash(
  checkpoint: Pick<CheckpointReader, "tensors" | "tensor">,
  name: string,
  signal?: AbortSignal,
): Promise<string> {
  const { update, finish } = startContentHash(checkpoint, name);
  for await (const chunk of checkpoint.tensor(name).bytes()) {
    signal?.throwIfAborted();
    update(chunk);
  }
  return await finish();
}
