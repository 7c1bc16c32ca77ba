/**
 * Element types: their size, their JavaScript array, and checks of the elements that callers pass.
 *
 * @module
 */
import type { DType, TensorData } from "./types.ts";

type NumericConstructor =
  | Float32ArrayConstructor
  | Float64ArrayConstructor
  | Int8ArrayConstructor
  | Uint8ArrayConstructor
  | Int16ArrayConstructor
  | Uint16ArrayConstructor
  | Int32ArrayConstructor
  | Uint32ArrayConstructor
  | BigInt64ArrayConstructor
  | BigUint64ArrayConstructor;

const ARRAYS: Readonly<Record<Exclude<DType, "string">, NumericConstructor>> = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
};

/** All element types, in the order of {@linkcode DType}. */
export const DTYPES: readonly DType[] = [...Object.keys(ARRAYS) as DType[], "string"];

/** Bytes of one element; 0 for strings. */
export function elementBytes(dtype: DType): number {
  return dtype === "string" ? 0 : ARRAYS[dtype].BYTES_PER_ELEMENT;
}

/**
 * Number of elements of a shape; 1 for a scalar (`[]`).
 *
 * @throws {RangeError} when a dimension is negative or not an integer.
 */
export function elementCount(shape: readonly number[]): number {
  let count = 1;
  for (const dimension of shape) {
    if (!Number.isSafeInteger(dimension) || dimension < 0) {
      throw new RangeError(
        `Cannot make a tensor of shape [${shape}]: every dimension must be an integer of at least 0`,
      );
    }
    count *= dimension;
  }
  return count;
}

/** A new zeroed array for `count` elements. */
export function newData(dtype: DType, count: number): TensorData {
  return dtype === "string" ? new Array<string>(count).fill("") : new ARRAYS[dtype](count);
}

/** Views the bytes of an `ArrayBuffer` as the array of the element type. */
export function viewData(dtype: Exclude<DType, "string">, bytes: ArrayBuffer): TensorData {
  return new ARRAYS[dtype](bytes);
}

/**
 * Checks that an array holds elements of a type, as many as a shape has.
 *
 * @throws {TypeError} when the array is not the one of the element type.
 * @throws {RangeError} when `data.length` is not the product of `shape`.
 */
export function checkData(dtype: DType, data: TensorData, shape: readonly number[]): void {
  const expected = dtype === "string" ? Array : ARRAYS[dtype];
  if (expected === undefined) {
    throw new TypeError(`Cannot make a tensor of type "${dtype}": known types are ${DTYPES.join(", ")}`);
  }
  if (!(data instanceof expected)) {
    const actual = (data as object | undefined)?.constructor?.name ?? typeof data;
    throw new TypeError(
      `Cannot make a ${dtype} tensor: its elements must be in a ${expected.name}, current value is a ${actual}`,
    );
  }
  const count = elementCount(shape);
  if (data.length !== count) {
    throw new RangeError(
      `Cannot make a ${dtype} tensor of shape [${shape}]: it needs ${count} elements, current value has ${data.length}`,
    );
  }
}
