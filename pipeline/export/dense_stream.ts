/**
 * Dense weights as little-endian bytes in an export's type, read by rows.
 *
 * @module
 */
import { f32ToF16Bits } from "../checkpoint/half.ts";
import type { ExternalSource } from "../graph/types.ts";

/** f32 elements read at a time: 1 MiB stays in a second-level cache while it is transposed. */
const PANEL_ELEMENTS = 1 << 18;

/**
 * Largest matrix that is transposed, which takes a buffer of its size. The largest of an 8B model (14336×4096 in f32) is
 * below; those of 70B models and most heads are not, and stay as they are.
 */
export const MOST_TRANSPOSED_BYTES = 256 << 20;

/** Largest finite half-precision number. */
const MOST_HALF = 65504;

/** A dense tensor to stream. */
export interface DenseTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** f32 rows `[start, end)`: slices of the first dimension. */
  readRows(start: number, end: number): Promise<Float32Array>;
}

/** Types that dense weights are exported in. */
export type DenseType = "float32" | "float16";

/** Elements of the export's type. */
function convert(values: Float32Array, dtype: DenseType, name: string): Float32Array | Uint16Array {
  if (dtype === "float32") return values;
  for (let index = 0; index < values.length; index++) {
    if (Math.abs(values[index]) > MOST_HALF && Number.isFinite(values[index])) {
      throw new RangeError(
        `Cannot write "${name}" as float16: it has an element ${values[index]}; export with --dtype f32`,
      );
    }
  }
  return f32ToF16Bits(values);
}

function bytesOf(values: Float32Array | Uint16Array): Uint8Array {
  return new Uint8Array(values.buffer as ArrayBuffer, values.byteOffset, values.byteLength);
}

/** Panels of rows, about {@linkcode PANEL_ELEMENTS} each. */
export async function* panels(
  tensor: DenseTensor,
): AsyncGenerator<{ start: number; end: number; values: Float32Array }> {
  const rows = tensor.shape[0] ?? 1;
  const width = tensor.shape.slice(1).reduce((product, size) => product * size, 1);
  const step = Math.max(1, Math.floor(PANEL_ELEMENTS / Math.max(1, width)));
  for (let start = 0; start < rows; start += step) {
    const end = Math.min(rows, start + step);
    yield { start, end, values: await tensor.readRows(start, end) };
  }
}

/**
 * A tensor in its own layout.
 *
 * @throws {RangeError} while it is read, when an element is too large for float16.
 */
export function denseSource(tensor: DenseTensor, dtype: DenseType): ExternalSource {
  return {
    byteLength: denseBytes(tensor.shape, dtype),
    async *chunks() {
      for await (const { values } of panels(tensor)) yield bytesOf(convert(values, dtype, tensor.name));
    },
  };
}

/** Bytes of a tensor in the export's type. */
export function denseBytes(shape: readonly number[], dtype: DenseType): number {
  return shape.reduce((product, size) => product * size, dtype === "float32" ? 4 : 2);
}

/**
 * A matrix `(rows, cols)` as `(cols, rows)`, which runtimes multiply by without rearranging it when they load the model.
 * Holds the whole result while it is written: for matrices up to {@linkcode MOST_TRANSPOSED_BYTES}.
 *
 * @throws {RangeError} when the tensor is no matrix or too large, and while it is read, when an element is too large for
 * float16.
 */
export function transposedSource(tensor: DenseTensor, dtype: DenseType): ExternalSource {
  const [rows, cols, more] = tensor.shape, byteLength = denseBytes(tensor.shape, dtype);
  if (rows === undefined || cols === undefined || more !== undefined || byteLength > MOST_TRANSPOSED_BYTES) {
    throw new RangeError(
      `Cannot transpose "${tensor.name}" as a matrix of at most ${MOST_TRANSPOSED_BYTES} bytes: ` +
        `current shape is [${tensor.shape.join(", ")}]`,
    );
  }
  return {
    byteLength,
    async *chunks() {
      const result = dtype === "float32" ? new Float32Array(rows * cols) : new Uint16Array(rows * cols);
      for await (const { start, end, values } of panels(tensor)) {
        const panel = convert(values, dtype, tensor.name);
        const height = end - start;
        for (let col = 0; col < cols; col++) {
          const base = col * rows + start;
          for (let row = 0, at = col; row < height; row++, at += cols) result[base + row] = panel[at];
        }
      }
      yield bytesOf(result);
    },
  };
}
