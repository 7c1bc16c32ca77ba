/**
 * Dense weights as little-endian bytes in an export's type, read by rows and never held whole.
 *
 * @module
 */
import { f32ToF16Bits } from "../checkpoint/half.ts";
import type { ExternalSource } from "../graph/types.ts";

/** f32 elements read at a time: 1 MiB stays in a second-level cache while it is transposed. */
const PANEL_ELEMENTS = 1 << 18;

/**
 * Bytes of the part of a transposed matrix that is held. A larger one is read in several passes: the largest matrix of a
 * 70B model (8192×28672) in f16 takes four, those of 7B models one.
 */
const STRIP_BYTES = 128 << 20;

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
async function* panels(tensor: DenseTensor): AsyncGenerator<{ start: number; end: number; values: Float32Array }> {
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
  const elements = tensor.shape.reduce((product, size) => product * size, 1);
  return {
    byteLength: elements * (dtype === "float32" ? 4 : 2),
    async *chunks() {
      for await (const { values } of panels(tensor)) yield bytesOf(convert(values, dtype, tensor.name));
    },
  };
}

/**
 * A matrix `(rows, cols)` as `(cols, rows)`, which runtimes multiply by without rearranging it when they load the model.
 *
 * @param stripBytes Most bytes held; a smaller bound reads the rows more often.
 * @throws {RangeError} when the tensor is no matrix, and while it is read, when an element is too large for float16.
 */
export function transposedSource(tensor: DenseTensor, dtype: DenseType, stripBytes = STRIP_BYTES): ExternalSource {
  const [rows, cols, more] = tensor.shape;
  if (rows === undefined || cols === undefined || more !== undefined) {
    throw new RangeError(
      `Cannot transpose "${tensor.name}" as a matrix: current shape is [${tensor.shape.join(", ")}]`,
    );
  }
  const elementBytes = dtype === "float32" ? 4 : 2;
  const width = Math.min(cols, Math.max(1, Math.floor(stripBytes / (rows * elementBytes))));
  return {
    byteLength: rows * cols * elementBytes,
    async *chunks() {
      // One buffer for all strips: a chunk is the writer's until it asks for the next.
      const strip = dtype === "float32" ? new Float32Array(width * rows) : new Uint16Array(width * rows);
      for (let from = 0; from < cols; from += width) {
        const to = Math.min(cols, from + width);
        for await (const { start, end, values } of panels(tensor)) {
          const panel = convert(values, dtype, tensor.name);
          const height = end - start;
          for (let col = from; col < to; col++) {
            const base = (col - from) * rows + start;
            for (let row = 0, at = col; row < height; row++, at += cols) strip[base + row] = panel[at];
          }
        }
        yield bytesOf(strip.subarray(0, (to - from) * rows));
      }
    },
  };
}
