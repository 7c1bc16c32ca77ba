/**
 * Writes safetensors files as a stream: the header comes from shapes alone, the bytes follow chunk by chunk.
 *
 * @module
 */
import { DTYPE_BYTES, MAX_HEADER_BYTES, type SafetensorsDType } from "./safetensors_dtype.ts";

/** One tensor to write. */
export interface SafetensorsEntry {
  /** Unique in the file; `__metadata__` is reserved by the format. */
  readonly name: string;
  readonly dtype: SafetensorsDType;
  /** Dimensions, outermost first; `[]` is a scalar. */
  readonly shape: readonly number[];
  /** Little-endian elements in row-major order, whole or in chunks; asked for when the tensor's turn comes. */
  readonly chunks: Uint8Array | (() => AsyncIterable<Uint8Array> | Iterable<Uint8Array>);
}

/** What {@linkcode writeSafetensors} wrote. */
export interface SafetensorsWritten {
  /** Size of the file. */
  readonly byteLength: number;
  /** Bytes `[start, end)` of each tensor, counted from the start of the file. */
  readonly offsets: ReadonlyMap<string, readonly [number, number]>;
}

/** How {@linkcode writeSafetensors} goes about it. */
export interface SafetensorsWriteOptions {
  /** Strings for the header's `__metadata__`. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** Fail instead of replacing an existing file. Default false. */
  readonly createNew?: boolean;
  /** Aborts between chunks; the partial file is removed. */
  readonly signal?: AbortSignal;
}

/**
 * Writes `entries` to `path`, in their order, and syncs the file to disk. At most one chunk is held. The header is padded
 * with spaces so that data starts on 8 bytes, as the format asks. On failure the partial file is removed.
 *
 * @param path File to write; give a temporary name and rename it where others may look.
 * @param entries Tensors in file order. An async iterable is collected first: entries are descriptions, not data.
 * @returns Size of the file and where each tensor lies.
 * @throws {RangeError} when a name repeats or is reserved, a shape is not made of non-negative integers, or chunks do not
 * add up to the shape.
 * @throws {Error} from the file system, for instance when the disk is full.
 *
 * Source: https://huggingface.co/docs/safetensors (format).
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { writeSafetensors } from "./safetensors_writer.ts";
 *
 * const path = await Deno.makeTempFile();
 * const written = await writeSafetensors(path, [
 *   { name: "a", dtype: "U8", shape: [3], chunks: Uint8Array.of(1, 2, 3) },
 * ]);
 * assertEquals(written.byteLength % 8, 3);
 * assertEquals((await Deno.readFile(path)).subarray(-3), Uint8Array.of(1, 2, 3));
 * await Deno.remove(path);
 * ```
 */
export async function writeSafetensors(
  path: string,
  entries: Iterable<SafetensorsEntry> | AsyncIterable<SafetensorsEntry>,
  options: SafetensorsWriteOptions = {},
): Promise<SafetensorsWritten> {
  const list: SafetensorsEntry[] = [];
  for await (const entry of entries) list.push(entry);
  const { header, offsets, byteLength } = safetensorsHeader(list, options.metadata);
  options.signal?.throwIfAborted();
  using file = await Deno.open(
    path,
    options.createNew ? { write: true, createNew: true } : { write: true, create: true, truncate: true },
  );
  try {
    await writeAll(file, header);
    for (const entry of list) {
      const [start, end] = offsets.get(entry.name)!;
      let written = 0;
      for await (const chunk of entry.chunks instanceof Uint8Array ? [entry.chunks] : entry.chunks()) {
        options.signal?.throwIfAborted();
        written += chunk.byteLength;
        if (written > end - start) break;
        await writeAll(file, chunk);
      }
      if (written !== end - start) {
        throw new RangeError(
          `Cannot write "${entry.name}" to ${path} as ${entry.dtype} [${entry.shape}] takes ${end - start} bytes: ` +
            `current value is ${written > end - start ? "more" : written}`,
        );
      }
    }
    await file.sync();
  } catch (cause) {
    await Deno.remove(path).catch(() => {});
    throw cause;
  }
  return { byteLength, offsets };
}

/**
 * The bytes before the data: 8 bytes of length, JSON, padding; and where each tensor will lie. Sizes of files can be
 * told from this without writing them.
 *
 * @throws {RangeError} as {@linkcode writeSafetensors} does, for names and shapes.
 */
export function safetensorsHeader(
  entries: readonly Pick<SafetensorsEntry, "name" | "dtype" | "shape">[],
  metadata?: Readonly<Record<string, string>>,
): { readonly header: Uint8Array } & SafetensorsWritten {
  const fields: string[] = metadata === undefined ? [] : [`"__metadata__":${JSON.stringify(metadata)}`];
  const relative = new Map<string, [number, number]>();
  let position = 0;
  for (const { name, dtype, shape } of entries) {
    if (name === "__metadata__" || relative.has(name)) {
      throw new RangeError(`Cannot write two tensors of one name, or "__metadata__": current value is "${name}"`);
    }
    let elements = 1;
    for (const size of shape) {
      if (!Number.isSafeInteger(size) || size < 0) {
        throw new RangeError(`Cannot write "${name}" as its shape needs whole dimensions: current value is [${shape}]`);
      }
      elements *= size;
    }
    const end = position + elements * DTYPE_BYTES[dtype];
    if (!Number.isSafeInteger(end)) {
      throw new RangeError(`Cannot write "${name}" as it is too large: current value is [${shape}]`);
    }
    fields.push(
      `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[${position},${end}]}`,
    );
    relative.set(name, [position, end]);
    position = end;
  }
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  const padded = Math.ceil(json.byteLength / 8) * 8;
  if (padded > MAX_HEADER_BYTES) {
    throw new RangeError(`Cannot write a header beyond ${MAX_HEADER_BYTES} bytes: current value is ${padded}`);
  }
  const header = new Uint8Array(8 + padded).fill(0x20, 8);
  new DataView(header.buffer).setBigUint64(0, BigInt(padded), true);
  header.set(json, 8);
  const base = header.byteLength;
  const offsets = new Map(
    [...relative].map(([name, [start, end]]) => [name, [start + base, end + base] as const]),
  );
  return { header, offsets, byteLength: base + position };
}

async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.byteLength;) done += await file.write(bytes.subarray(done));
}
