/**
 * Element types: their size, their ONNX number, and JavaScript arrays as little-endian bytes.
 *
 * @module
 */
import type { DType, TensorData } from "../../kernels/runtime/types.ts";
import { f32ToF16Bits } from "../checkpoint/half.ts";
import { TensorProto_DataType } from "./onnx_pb.ts";

/** Bytes of one element; 0 for strings. */
export const ELEMENT_BYTES: Readonly<Record<DType, number>> = {
  float32: 4,
  float64: 8,
  float16: 2,
  bfloat16: 2,
  int8: 1,
  uint8: 1,
  int16: 2,
  uint16: 2,
  int32: 4,
  uint32: 4,
  int64: 8,
  uint64: 8,
  bool: 1,
  string: 0,
};

/** TensorProto.DataType of each element type. */
export const ONNX_TYPES: Readonly<Record<DType, TensorProto_DataType>> = {
  float32: TensorProto_DataType.FLOAT,
  float64: TensorProto_DataType.DOUBLE,
  float16: TensorProto_DataType.FLOAT16,
  bfloat16: TensorProto_DataType.BFLOAT16,
  int8: TensorProto_DataType.INT8,
  uint8: TensorProto_DataType.UINT8,
  int16: TensorProto_DataType.INT16,
  uint16: TensorProto_DataType.UINT16,
  int32: TensorProto_DataType.INT32,
  uint32: TensorProto_DataType.UINT32,
  int64: TensorProto_DataType.INT64,
  uint64: TensorProto_DataType.UINT64,
  bool: TensorProto_DataType.BOOL,
  string: TensorProto_DataType.STRING,
};

/**
 * The element type with an ONNX number.
 *
 * @param number A TensorProto.DataType.
 * @throws {RangeError} for types that dbf has no name for (complex, 4 and 8 bit floats).
 */
export function dtypeOf(number: number): DType {
  for (const [dtype, value] of Object.entries(ONNX_TYPES)) if (value === number) return dtype as DType;
  throw new RangeError(`Cannot read ONNX element type ${number} (${TensorProto_DataType[number] ?? "unknown"})`);
}

/** The element type that an array holds when nothing else is said; `Uint16Array` is uint16, `Uint8Array` uint8. */
export function dtypeOfArray(data: TensorData): DType {
  if (data instanceof Float32Array) return "float32";
  if (data instanceof Float64Array) return "float64";
  if (data instanceof BigInt64Array) return "int64";
  if (data instanceof Int32Array) return "int32";
  if (data instanceof Uint8Array) return "uint8";
  if (data instanceof Int8Array) return "int8";
  if (data instanceof Uint16Array) return "uint16";
  if (data instanceof Int16Array) return "int16";
  if (data instanceof Uint32Array) return "uint32";
  if (data instanceof BigUint64Array) return "uint64";
  return "string";
}

/** The elements of a numeric array as bytes (a view, little-endian on every platform that Deno runs on). */
export function bytesOf(data: Exclude<TensorData, string[]>): Uint8Array {
  return new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
}

/**
 * Numbers as the array that holds elements of `dtype`.
 *
 * @param dtype A numeric type or bool.
 * @throws {TypeError} for strings and bfloat16.
 */
export function arrayOf(dtype: DType, values: readonly number[]): TensorData {
  switch (dtype) {
    case "float32":
      return Float32Array.from(values);
    case "float64":
      return Float64Array.from(values);
    case "float16":
      return f32ToF16Bits(Float32Array.from(values));
    case "int64":
      return BigInt64Array.from(values, (value) => BigInt(value));
    case "uint64":
      return BigUint64Array.from(values, (value) => BigInt(value));
    case "int32":
      return Int32Array.from(values);
    case "uint32":
      return Uint32Array.from(values);
    case "int16":
      return Int16Array.from(values);
    case "uint16":
      return Uint16Array.from(values);
    case "int8":
      return Int8Array.from(values);
    case "uint8":
    case "bool":
      return Uint8Array.from(values);
    default:
      throw new TypeError(`Cannot make an array of ${dtype} from numbers: use float32 and cast in the graph`);
  }
}
