/**
 * Stored tensors of packed layers: checked when they are made and when they are read.
 *
 * @module
 */
import { packedBytes, packedShape, packSigns, unpackSigns } from "../../kernels/layout.ts";
import type { PackedLayer, PackedTensor, SignMatrix } from "../../pipeline/stream/stage.ts";

/**
 * Scales in f32, little-endian.
 *
 * @param which Name of the scale, for errors.
 * @throws {RangeError} when there are not `shape` many, or one is not finite.
 */
export function packScales(
  layer: string,
  which: string,
  values: Float32Array,
  shape: readonly number[],
): PackedTensor {
  const length = shape.reduce((product, size) => product * size, 1);
  if (values.length !== length) {
    throw new RangeError(
      `Cannot pack "${layer}" as ${which} must have ${length} scales: current value is ${values.length}`,
    );
  }
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) {
    throw new RangeError(
      `Cannot pack "${layer}" as ${which}[${bad}] must be a finite scale: current value is ${values[bad]}`,
    );
  }
  const data = new Uint8Array(4 * length);
  const view = new DataView(data.buffer);
  values.forEach((value, index) => view.setFloat32(4 * index, value, true));
  return { dtype: "F32", shape, data };
}

/** Signs in the layout of kernels/layout.ts. */
export function packMatrix(signs: SignMatrix): PackedTensor {
  return { dtype: "U8", shape: packedShape(signs.rows, signs.cols), data: packSigns(signs) };
}

/** Reads the tensors of one packed layer, `name` being its weight's. */
export function layerTensors(name: string, layer: PackedLayer): {
  /** Bytes of a u8 tensor; `what` says what takes `length` bytes, for errors. */
  bytes(key: string, length: number, what: string): Uint8Array;
  scales(key: string, length: number): Float32Array;
  signs(key: string, rows: number, cols: number): SignMatrix;
} {
  const tensor = (key: string, dtype: PackedTensor["dtype"]): Uint8Array => {
    const found = Object.hasOwn(layer.tensors, key) ? layer.tensors[key] : undefined;
    if (found?.dtype !== dtype) {
      throw new TypeError(
        `Cannot unpack "${name}" as tensor ${key} must be ${dtype}: current value is ${found?.dtype ?? "absent"}`,
      );
    }
    return found.data;
  };
  const bytes = (key: string, length: number, what: string): Uint8Array => {
    const data = tensor(key, "U8");
    if (data.byteLength !== length) {
      throw new RangeError(
        `Cannot unpack "${name}" as ${what} take ${length} bytes: current value is ${data.byteLength} bytes`,
      );
    }
    return data;
  };
  return {
    bytes,
    scales(key, length) {
      const data = tensor(key, "F32");
      if (data.byteLength !== 4 * length) {
        throw new RangeError(
          `Cannot unpack "${name}" as ${key} must have ${length} scales: current value is ${data.byteLength / 4}`,
        );
      }
      const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
      return Float32Array.from({ length }, (_, index) => view.getFloat32(4 * index, true));
    },
    signs: (key, rows, cols) =>
      unpackSigns(bytes(key, packedBytes(rows, cols), `signs ${key} of ${rows}x${cols}`), rows, cols),
  };
}

/** The attribute that keeps a layer's error, where it was measured. */
export function errorAttribute(weightedError: number): Record<string, number> {
  return Number.isFinite(weightedError) ? { weightedError } : {};
}

/** The error that {@linkcode errorAttribute} kept; NaN where none was. */
export function errorOf({ attributes: { weightedError } }: PackedLayer): number {
  return typeof weightedError === "number" ? weightedError : NaN;
}
