/**
 * Element types of safetensors files, and the limits that hold for their headers.
 *
 * @module
 */
import type { WeightDType } from "./types.ts";

/** Element types that a safetensors header may name and dbf knows the size of. */
export type SafetensorsDType =
  | WeightDType
  | "BOOL"
  | "U8"
  | "I8"
  | "I16"
  | "U16"
  | "I32"
  | "U32"
  | "I64"
  | "U64"
  | "F8_E8M0"
  | "F8_E4M3FNUZ"
  | "F8_E5M2FNUZ"
  | "C64";

/** Bytes of one element. */
export const DTYPE_BYTES: Readonly<Record<SafetensorsDType, number>> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  BOOL: 1,
  U8: 1,
  I8: 1,
  I16: 2,
  U16: 2,
  I32: 4,
  U32: 4,
  I64: 8,
  U64: 8,
  F8_E8M0: 1,
  F8_E4M3FNUZ: 1,
  F8_E5M2FNUZ: 1,
  C64: 8,
};

/** Types that {@linkcode TensorHandle.readRows} can turn into f32. */
export const WEIGHT_DTYPES: ReadonlySet<string> = new Set<WeightDType>([
  "F64",
  "F32",
  "F16",
  "BF16",
  "F8_E4M3",
  "F8_E5M2",
]);

/** Largest header accepted: the reference reader's own limit. A 61-layer mixture with 384 experts needs about 60 MB; a dense 70B model 100 kB a shard. */
export const MAX_HEADER_BYTES = 100_000_000;

/** Most tensors in one file: one for each 60 bytes of the largest header would be 1.6 million; real shards have under 100,000. */
export const MAX_TENSORS_PER_FILE = 1_000_000;

/** Most dimensions: numerical libraries stop at 8 to 64, weights of decoders at 4. */
export const MAX_DIMENSIONS = 16;

/** Longest tensor name, in UTF-16 units; real ones stay below 200. */
export const MAX_NAME_LENGTH = 4096;
