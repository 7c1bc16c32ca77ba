/**
 * Writing one committed tensor or layer: hashed while it is written, synced, and only then given its name.
 *
 * @module
 */
import { createHash } from "node:crypto";
import type { TensorHandle } from "../checkpoint/types.ts";
import { type SafetensorsEntry, safetensorsHeader, writeSafetensors } from "../checkpoint/safetensors_writer.ts";
import type { PackedLayer } from "../stream/stage.ts";

/** Name of the one tensor in the file of a dense entry. */
export const DENSE_TENSOR = "weight";

/** What was written. */
export interface EntryFile {
  readonly bytes: number;
  /** Of the whole file. */
  readonly sha256: string;
}

/**
 * Writes tensors to `path` and hashes the file on the way.
 *
 * @throws {RangeError} when a tensor's data does not match its shape.
 */
export async function writeEntryFile(
  path: string,
  entries: readonly SafetensorsEntry[],
  metadata: Readonly<Record<string, string>>,
  signal?: AbortSignal,
): Promise<EntryFile> {
  const hash = createHash("sha256").update(safetensorsHeader(entries, metadata).header);
  const hashed = entries.map((entry): SafetensorsEntry => ({
    ...entry,
    async *chunks() {
      const { chunks } = entry;
      for await (const chunk of chunks instanceof Uint8Array ? [chunks] : chunks()) {
        hash.update(chunk);
        yield chunk;
      }
    },
  }));
  const { byteLength } = await writeSafetensors(path, hashed, { metadata, signal });
  return { bytes: byteLength, sha256: hash.digest("hex") };
}

/** Tensors of a packed layer, in name order so that equal layers give equal files. */
export function packedEntries(layer: PackedLayer): SafetensorsEntry[] {
  return Object.entries(layer.tensors)
    .sort(([a], [b]) => a < b ? -1 : 1)
    .map(([name, { dtype, shape, data }]) => ({ name, dtype, shape, chunks: data }));
}

/** Rows of an 8-bit tensor widened at a time; see {@linkcode denseEntries}. */
const WIDEN_ELEMENTS = 1 << 18;

/**
 * The entry of a tensor kept dense, streamed from the checkpoint in its own type. 8-bit floats, whose scales lie in
 * another tensor, become F32 with the scales multiplied in.
 *
 * @param onBytes Receives the stored bytes as they pass, for the content hash.
 */
export function denseEntries(handle: TensorHandle, onBytes: (chunk: Uint8Array) => void): SafetensorsEntry[] {
  const { dtype, shape } = handle;
  if (dtype !== "F8_E4M3" && dtype !== "F8_E5M2") {
    return [{
      name: DENSE_TENSOR,
      dtype,
      shape,
      async *chunks() {
        for await (const chunk of handle.bytes()) {
          onBytes(chunk);
          yield chunk;
        }
      },
    }];
  }
  return [{
    name: DENSE_TENSOR,
    dtype: "F32",
    shape,
    async *chunks() {
      const rows = shape[0] ?? 1;
      const width = shape.slice(1).reduce((product, size) => product * size, 1);
      const step = Math.max(1, Math.floor(WIDEN_ELEMENTS / Math.max(width, 1)));
      for (let start = 0; start < rows; start += step) {
        const values = await handle.readRows(start, Math.min(rows, start + step));
        yield new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      }
      for await (const chunk of handle.bytes()) onBytes(chunk);
    },
  }];
}
