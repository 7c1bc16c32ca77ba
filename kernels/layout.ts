/**
 * The stored layout of packed signs: what `ai.dbf::BinaryMatMul` reads as its input `B`.
 *
 * Layout version 1: uint8 `[ceil(N/16), ceil(K/32), 16, 4]`. Sixteen rows stand side by side; each of them contributes one
 * little-endian 32-bit word at a time, so the 64 bytes `[i, w, :, :]` are 16 rows × 32 columns and one cache line:
 * row `16·i + r`, column `32·w + j` is bit `j & 7` of byte `[i, w, r, j >> 3]`. 1 is +1, 0 is −1; padding rows and
 * padding bits are 0 and never count. kernels/native/README.md has the measurements that chose it.
 *
 * @module
 */
import type { SignMatrix } from "../pipeline/stream/stage.ts";

/** Version of the layout, stored with every packed layer: readers refuse another. */
export const LAYOUT_VERSION = 1;

/** Rows that stand side by side: one AVX-512 register of 32-bit words, half of a warp. */
export const ROWS_PER_BLOCK = 16;

/** Columns of one word. */
export const COLUMNS_PER_WORD = 32;

/**
 * Shape of the packed tensor of an `(N, K)` sign matrix.
 *
 * @param N Rows (output features), ≥ 1.
 * @param K Columns (input features), ≥ 1.
 * @returns `[ceil(N/16), ceil(K/32), 16, 4]`.
 * @throws {RangeError} when a size is not a positive integer.
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { packedShape } from "./layout.ts";
 *
 * assertEquals(packedShape(100, 33), [7, 2, 16, 4]);
 * ```
 */
export function packedShape(N: number, K: number): [number, number, number, number] {
  for (const [name, size] of [["N", N], ["K", K]] as const) {
    if (!Number.isInteger(size) || size < 1) {
      throw new RangeError(`Cannot lay out signs as ${name} must be a positive integer: current value is ${size}`);
    }
  }
  return [Math.ceil(N / ROWS_PER_BLOCK), Math.ceil(K / COLUMNS_PER_WORD), ROWS_PER_BLOCK, 4];
}

/**
 * Bytes of the packed tensor of an `(N, K)` sign matrix.
 *
 * @throws {RangeError} when a size is not a positive integer.
 */
export function packedBytes(N: number, K: number): number {
  return packedShape(N, K).reduce((product, size) => product * size, 1);
}

/**
 * Packs signs for the operator.
 *
 * @param signs Row-major words, see {@linkcode SignMatrix}; padding bits may hold anything, they are cleared.
 * @returns Bytes of shape {@linkcode packedShape}.
 * @throws {RangeError} when `words` is not `rows · ceil(cols/32)` long.
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { packSigns, unpackSigns } from "./layout.ts";
 *
 * const signs = { rows: 2, cols: 3, words: Uint32Array.of(0b101, 0b010) };
 * assertEquals(unpackSigns(packSigns(signs), 2, 3), signs);
 * ```
 */
export function packSigns(signs: SignMatrix): Uint8Array<ArrayBuffer> {
  const { rows, cols, words } = signs;
  const [, width] = packedShape(rows, cols);
  if (words.length !== rows * width) {
    throw new RangeError(
      `Cannot pack a ${rows}x${cols} sign matrix as it needs ${rows * width} words: current value is ${words.length}`,
    );
  }
  const bytes = new Uint8Array(packedBytes(rows, cols));
  const view = new DataView(bytes.buffer);
  const last = lastWordMask(cols);
  for (let row = 0; row < rows; row++) {
    const from = row * width;
    let to = wordOffset(row, width);
    for (let word = 0; word < width; word++, to += 4 * ROWS_PER_BLOCK) {
      view.setUint32(to, word === width - 1 ? words[from + word] & last : words[from + word], true);
    }
  }
  return bytes;
}

/**
 * The inverse of {@linkcode packSigns}.
 *
 * @param bytes Packed tensor of shape `packedShape(N, K)`.
 * @returns Row-major signs whose padding bits are 0.
 * @throws {RangeError} when `bytes` has another length.
 */
export function unpackSigns(bytes: Uint8Array, N: number, K: number): SignMatrix {
  const [, width] = packedShape(N, K);
  if (bytes.length !== packedBytes(N, K)) {
    throw new RangeError(
      `Cannot unpack a ${N}x${K} sign matrix as it needs ${packedBytes(N, K)} bytes: current value is ${bytes.length}`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const words = new Uint32Array(N * width);
  const last = lastWordMask(K);
  for (let row = 0; row < N; row++) {
    const to = row * width;
    let from = wordOffset(row, width);
    for (let word = 0; word < width; word++, from += 4 * ROWS_PER_BLOCK) words[to + word] = view.getUint32(from, true);
    words[to + width - 1] &= last;
  }
  return { rows: N, cols: K, words };
}

/** Offset of word 0 of `row` in bytes; the next words follow every `4 · ROWS_PER_BLOCK` bytes. */
function wordOffset(row: number, width: number): number {
  const inBlock = row % ROWS_PER_BLOCK;
  return 4 * ((row - inBlock) * width + inBlock);
}

/** Ones where the last word of a row has columns. */
function lastWordMask(cols: number): number {
  const used = cols % COLUMNS_PER_WORD;
  return used === 0 ? 0xffffffff : (2 ** used - 1) >>> 0;
}
