/**
 * Reading the file of a packed layer, whose size and hash are known from the manifest or the journal.
 *
 * @module
 */
import { LENGTH_BYTES, parseSafetensorsHeader, safetensorsHeaderLength } from "../checkpoint/safetensors.ts";
import type { PackedLayer, PackedTensor } from "../stream/stage.ts";
import { sha256 } from "./durable.ts";

/** Largest header in an entry's file: a packed layer has a handful of tensors. */
export const MAX_ENTRY_HEADER_BYTES = 1_000_000;

/** Types that packed tensors may have. */
const PACKED_DTYPES: ReadonlySet<string> = new Set(["F32", "F16", "BF16", "U8", "I8", "U32", "I32"]);

/**
 * Length of the header of an entry's file.
 *
 * @throws {RangeError} when it is beyond the file or any real header.
 */
export function entryHeaderLength(prefix: Uint8Array, size: number, file: string): number {
  const length = safetensorsHeaderLength(prefix, size, file);
  if (length > MAX_ENTRY_HEADER_BYTES) {
    throw new RangeError(
      `Cannot read ${file} as its header may have ${MAX_ENTRY_HEADER_BYTES} bytes: current value is ${length}`,
    );
  }
  return length;
}

/**
 * Reads a packed layer.
 *
 * @param file Its path; the caller made sure that it lies where it should.
 * @param record Kind, attributes, size and hash as committed.
 * @throws {RangeError} when the size differs; {Error} when the content does; {TypeError} for a type no packing uses.
 */
export async function readPackedFile(
  file: string,
  record: {
    readonly name: string;
    readonly kind: string;
    readonly attributes: PackedLayer["attributes"];
    readonly bytes: number;
    readonly sha256: string;
  },
): Promise<PackedLayer> {
  const { size } = await Deno.stat(file);
  if (size !== record.bytes) {
    throw new RangeError(
      `Cannot read "${record.name}" from ${file} as it must have ${record.bytes} bytes: current value is ${size}`,
    );
  }
  const bytes = await Deno.readFile(file);
  if (sha256(bytes) !== record.sha256) {
    throw new Error(
      `Cannot read "${record.name}" from ${file} as its content is damaged: copy it again, or compress again`,
    );
  }
  const dataStart = LENGTH_BYTES + entryHeaderLength(bytes.subarray(0, LENGTH_BYTES), size, file);
  const header = parseSafetensorsHeader(bytes.subarray(LENGTH_BYTES, dataStart), size - dataStart, file);
  const tensors = header.tensors.map(({ name, dtype, shape, begin, end }): [string, PackedTensor] => {
    if (!PACKED_DTYPES.has(dtype)) {
      throw new TypeError(`Cannot read "${name}" from ${file} as a packed tensor: it is ${dtype}`);
    }
    // Its own buffer, so that typed views are aligned.
    return [name, {
      dtype: dtype as PackedTensor["dtype"],
      shape,
      data: bytes.slice(dataStart + begin, dataStart + end),
    }];
  });
  return { kind: record.kind, attributes: record.attributes, tensors: Object.fromEntries(tensors) };
}
