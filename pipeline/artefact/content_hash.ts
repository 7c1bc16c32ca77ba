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
