/**
 * Embeddings and heads as codes of 8 or 4 bits, rounded while they are streamed.
 *
 * @module
 */
import { f32ToF16Bits } from "../checkpoint/half.ts";
import type { ExternalSource } from "../graph/types.ts";
import { packRows } from "../stream/nbits_layout.ts";
import { type DenseTensor, type DenseType, panels } from "./dense_stream.ts";

/** Codes and scales of whole groups: w ≈ scale·(code − 2^(bits−1)). */
export interface RoundedGroups {
  /** One code a byte. */
  readonly codes: Uint8Array;
  readonly scales: Float32Array;
}

/**
 * Rounds groups symmetrically: the entry of largest magnitude, m, is code 0 and the scale −m/2^(bits−1), so that no code is wasted
 * (as llama.cpp's Q4_0 does).
 *
 * @param values Whole groups, one after the other.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { roundGroups } from "./table_stream.ts";
 *
 * assertEquals(roundGroups(Float32Array.of(8, -4, 1, 0), 4, 4), {
 *   codes: Uint8Array.of(0, 12, 7, 8),
 *   scales: Float32Array.of(-1),
 * });
 * ```
 */
export function roundGroups(values: Float32Array, group: number, bits: 8 | 4): RoundedGroups {
  const middle = 2 ** (bits - 1), most = 2 ** bits - 1;
  const codes = new Uint8Array(values.length), scales = new Float32Array(values.length / group);
  for (let index = 0, start = 0; start < values.length; index++, start += group) {
    let largest = 0;
    for (let at = start; at < start + group; at++) if (Math.abs(values[at]) > Math.abs(largest)) largest = values[at];
    scales[index] = -largest / middle;
    const inverse = largest === 0 ? 0 : 1 / scales[index];
    for (let at = start; at < start + group; at++) {
      codes[at] = Math.min(most, Math.max(0, Math.round(values[at] * inverse) + middle));
    }
  }
  return { codes, scales };
}

/**
 * Streams of a table `(rows, cols)`: packed codes `(rows, cols·bits/8)` and scales `(rows, cols/group)` of the export's type. Each reads the
 * tensor once; panels of rows are held, never the whole.
 */
export function tableSources(
  tensor: DenseTensor,
  bits: 8 | 4,
  group: number,
  dtype: DenseType,
): { readonly codes: ExternalSource; readonly scales: ExternalSource } {
  const [rows, cols] = tensor.shape;
  const scaleBytes = dtype === "float32" ? 4 : 2;
  return {
    codes: {
      byteLength: rows * cols * bits / 8,
      async *chunks() {
        for await (const { start, end, values } of panels(tensor)) {
          yield packRows(roundGroups(values, group, bits).codes, end - start, cols, bits);
        }
      },
    },
    scales: {
      byteLength: rows * cols / group * scaleBytes,
      async *chunks() {
        for await (const { values } of panels(tensor)) {
          const { scales } = roundGroups(values, group, bits);
          const stored = dtype === "float32" ? scales : f32ToF16Bits(scales);
          yield new Uint8Array(stored.buffer as ArrayBuffer, stored.byteOffset, stored.byteLength);
        }
      },
    },
  };
}
