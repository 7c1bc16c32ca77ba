/**
 * The safetensors header, parsed and checked in full before anything is allocated from it.
 *
 * @module
 */
import { createHeaderCursor, type HeaderCursor } from "./header_cursor.ts";
import {
  DTYPE_BYTES,
  MAX_DIMENSIONS,
  MAX_HEADER_BYTES,
  MAX_NAME_LENGTH,
  MAX_TENSORS_PER_FILE,
  type SafetensorsDType,
} from "./safetensors_dtype.ts";

/** Where a tensor lies in its file. */
export interface SafetensorsTensor {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  /** Product of `shape`. */
  readonly elements: number;
  /** First byte, from the start of the data (not of the file). */
  readonly begin: number;
  /** One past the last byte, from the start of the data. */
  readonly end: number;
}

/** A checked header. */
export interface SafetensorsHeader {
  readonly metadata: Readonly<Record<string, string>>;
  /** In the header's order. */
  readonly tensors: readonly SafetensorsTensor[];
}

/** Bytes before the header's JSON: its length as a little-endian u64. */
export const LENGTH_BYTES = 8;

/**
 * Reads the header's length from the first bytes of a file.
 *
 * @param prefix The first {@linkcode LENGTH_BYTES} bytes, or as many as there are.
 * @param fileBytes Size of the file.
 * @param file Name for errors.
 * @returns Bytes of JSON that follow.
 * @throws {RangeError} when the file is too short or the length is beyond the file or {@linkcode MAX_HEADER_BYTES}.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { safetensorsHeaderLength } from "./safetensors.ts";
 *
 * assertEquals(safetensorsHeaderLength(Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0), 10, "a.safetensors"), 2);
 * ```
 */
export function safetensorsHeaderLength(prefix: Uint8Array, fileBytes: number, file: string): number {
  if (prefix.byteLength < LENGTH_BYTES || fileBytes < LENGTH_BYTES) {
    throw new RangeError(
      `Cannot read ${file} as safetensors, which starts with ${LENGTH_BYTES} bytes of length: ` +
        `current value is a file of ${Math.min(fileBytes, prefix.byteLength)} bytes. Download it again.`,
    );
  }
  const length = new DataView(prefix.buffer, prefix.byteOffset, LENGTH_BYTES).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw new RangeError(
      `Cannot read ${file} as safetensors, whose header has at most ${MAX_HEADER_BYTES} bytes: ` +
        `current value is ${length}. Is it another format, renamed?`,
    );
  }
  if (Number(length) > fileBytes - LENGTH_BYTES) {
    throw new RangeError(
      `Cannot read ${file} as its header alone takes ${length} bytes: current value is a file of ${fileBytes} bytes. ` +
        `It is cut short: download it again.`,
    );
  }
  return Number(length);
}

/**
 * Parses and checks a header: grammar, UTF-8, duplicate names, types, shapes, sizes, and that the tensors cover the data
 * without gap or overlap, as the format demands.
 *
 * @param json The header's bytes, without the length before them.
 * @param dataBytes Bytes of the file after the header.
 * @param file Name for errors.
 * @throws {SyntaxError} when the JSON is malformed, nested, not UTF-8, or a key repeats.
 * @throws {RangeError} when a field has a value that it cannot have; the message names the tensor and the field.
 *
 * Source: https://huggingface.co/docs/safetensors (format).
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { parseSafetensorsHeader } from "./safetensors.ts";
 *
 * const json = new TextEncoder().encode('{"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}');
 * assertEquals(parseSafetensorsHeader(json, 12, "a.safetensors").tensors[0].shape, [2, 3]);
 * ```
 */
export function parseSafetensorsHeader(json: Uint8Array, dataBytes: number, file: string): SafetensorsHeader {
  const cursor = createHeaderCursor(json, file);
  const tensors: SafetensorsTensor[] = [];
  let metadata: Record<string, string> | undefined;
  const names = new Set<string>();
  cursor.object((name) => {
    if (names.has(name)) throw new SyntaxError(`Cannot read ${file} as tensor "${shorten(name)}" is there twice`);
    if (names.size === MAX_TENSORS_PER_FILE) {
      throw new RangeError(`Cannot read ${file} as one file may have at most ${MAX_TENSORS_PER_FILE} tensors`);
    }
    names.add(name);
    if (name === "__metadata__") metadata = parseMetadata(cursor);
    else tensors.push(parseTensor(cursor, name, dataBytes, file));
  });
  cursor.end();
  checkCover(tensors, dataBytes, file);
  return { metadata: metadata ?? {}, tensors };
}

function parseMetadata(cursor: HeaderCursor): Record<string, string> {
  const entries = new Map<string, string>();
  cursor.object((key) => {
    if (entries.has(key)) cursor.fail(`metadata key "${shorten(key)}" is there twice`);
    entries.set(key, cursor.string());
  });
  return Object.fromEntries(entries);
}

function parseTensor(cursor: HeaderCursor, name: string, dataBytes: number, file: string): SafetensorsTensor {
  const label = shorten(name);
  const refuse = (field: string, rule: string, value: unknown): never => {
    throw new RangeError(`Cannot read ${file} as ${field} of tensor "${label}" ${rule}: current value is ${value}`);
  };
  if (name.length > MAX_NAME_LENGTH || !name.isWellFormed()) {
    refuse("the name", `must be well-formed and have at most ${MAX_NAME_LENGTH} characters`, name.length);
  }
  let dtype: string | undefined, shape: number[] | undefined, offsets: number[] | undefined;
  cursor.object((key) => {
    if (key === "dtype" && dtype === undefined) dtype = cursor.string();
    else if (key === "shape" && shape === undefined) shape = cursor.integers(MAX_DIMENSIONS);
    else if (key === "data_offsets" && offsets === undefined) offsets = cursor.integers(2);
    else cursor.fail(`tensor "${label}" has an unknown or repeated field "${shorten(key)}"`);
  });
  if (dtype === undefined || shape === undefined || offsets === undefined) {
    throw new SyntaxError(`Cannot read ${file} as tensor "${label}" lacks one of dtype, shape, data_offsets`);
  }
  if (!Object.hasOwn(DTYPE_BYTES, dtype)) {
    refuse("dtype", `must be one of ${Object.keys(DTYPE_BYTES).join(", ")}`, `"${shorten(dtype)}"`);
  }
  const size = DTYPE_BYTES[dtype as SafetensorsDType];
  let elements = 1;
  for (const dimension of shape) {
    elements *= dimension;
    if (elements * size > Number.MAX_SAFE_INTEGER) refuse("shape", "is too large", `[${shape}]`);
  }
  if (offsets.length !== 2) refuse("data_offsets", "must have a begin and an end", `[${offsets}]`);
  const [begin, end] = offsets;
  if (begin > end) refuse("data_offsets", "must not end before it begins", `[${offsets}]`);
  if (end - begin !== elements * size) {
    refuse("data_offsets", `must span ${elements * size} bytes for ${dtype} [${shape}]`, end - begin);
  }
  if (end > dataBytes) {
    refuse("data_offsets", `must stay within ${dataBytes} bytes of data (a cut file: download it again)`, end);
  }
  return { name, dtype: dtype as SafetensorsDType, shape, elements, begin, end };
}

function checkCover(tensors: readonly SafetensorsTensor[], dataBytes: number, file: string): void {
  let position = 0;
  for (const tensor of tensors.toSorted((x, y) => x.begin - y.begin || x.end - y.end)) {
    if (tensor.begin !== position) {
      throw new RangeError(
        `Cannot read ${file} as tensor "${shorten(tensor.name)}" ${
          tensor.begin < position ? "overlaps the one before" : "leaves a gap"
        }: it must begin at ${position}, current value is ${tensor.begin}`,
      );
    }
    position = tensor.end;
  }
  if (position !== dataBytes) {
    throw new RangeError(
      `Cannot read ${file} as its tensors take ${position} bytes: current value is ${dataBytes} bytes of data`,
    );
  }
}

/** Names from files go into messages cut and escaped. */
function shorten(text: string): string {
  return JSON.stringify(text.length > 120 ? `${text.slice(0, 117)}...` : text).slice(1, -1);
}
