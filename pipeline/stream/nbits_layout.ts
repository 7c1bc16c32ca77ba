/**
 * How rounded layers lie in memory: as `com.microsoft::MatMulNBits` reads its inputs `B` and `zero_points`.
 *
 * @module
 */
import { type CodeBits, storedBits } from "./factors.ts";

/** Group sizes that ONNX Runtime's products take. */
export const GROUPS: readonly number[] = [16, 32, 64, 128, 256];

/** Groups of a row; the last may be padded. */
export function groupsOf(cols: number, group: number): number {
  return Math.ceil(cols / group);
}

/** Bytes of the codes of `(rows, cols)`, padded to whole groups. */
export function codeBytes(rows: number, cols: number, bits: CodeBits, group: number): number {
  return rows * groupsOf(cols, group) * group * storedBits(bits) / 8;
}

/** Bytes of a row of zero points, packed like codes. */
export function zeroRowBytes(cols: number, bits: CodeBits, group: number): number {
  return Math.ceil(groupsOf(cols, group) * storedBits(bits) / 8);
}

/**
 * Packs numbers of a few bits into bytes, row by row, the first one least significant.
 *
 * @param values `(rows, length)`, each below 2^width.
 * @param width 2, 4 or 8.
 * @returns `(rows, ceil(length·width/8))`.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { packRows, unpackRows } from "./nbits_layout.ts";
 *
 * const packed = packRows(Uint8Array.of(1, 2, 3), 1, 3, 4);
 * assertEquals(packed, Uint8Array.of(0x21, 0x03));
 * assertEquals(unpackRows(packed, 1, 3, 4), Uint8Array.of(1, 2, 3));
 * ```
 */
export function packRows(values: Uint8Array, rows: number, length: number, width: 2 | 4 | 8): Uint8Array<ArrayBuffer> {
  const each = 8 / width, rowBytes = Math.ceil(length / each);
  const packed = new Uint8Array(rows * rowBytes);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let i = 0; i < length; i++, at++) {
      packed[row * rowBytes + Math.floor(i / each)] |= values[at] << i % each * width;
    }
  }
  return packed;
}

/** The inverse of {@linkcode packRows}. */
export function unpackRows(
  packed: Uint8Array,
  rows: number,
  length: number,
  width: 2 | 4 | 8,
): Uint8Array<ArrayBuffer> {
  const each = 8 / width, rowBytes = Math.ceil(length / each), mask = 2 ** width - 1;
  const values = new Uint8Array(rows * length);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let i = 0; i < length; i++, at++) {
      values[at] = packed[row * rowBytes + Math.floor(i / each)] >> i % each * width & mask;
    }
  }
  return values;
}

/** The zero point that MatMulNBits assumes where none are given: half of the stored range. */
export function defaultZero(bits: CodeBits): number {
  return 2 ** (storedBits(bits) - 1);
}
