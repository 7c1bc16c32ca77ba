/**
 * Sizes of what a run writes.
 *
 * @module
 */
import { tableBytes } from "../model/tables.ts";
import type { LayerShape, LayerStorage } from "../stream/stage.ts";
import { MAX_BITS_PER_WEIGHT, rankForBits, smallestBits } from "./bits.ts";
import type { DenseTensor } from "./inventory.ts";
import { dbfStorage, storedBytes } from "./storage.ts";

/** What a layer is stored as at a middle dimension, which layers that are not `ranked` have none of. */
export type StorageOf = (layer: LayerShape & { readonly method?: string }, rank: number) => LayerStorage;

/** Bytes of an element of what stays dense. */
export const DENSE_BYTES = { f32: 4, f16: 2 } as const;

/**
 * The graph itself, without weights: nodes and names, functions, tensors to cache lines. The architectures in tests/fixtures need 28,051 to
 * 45,442 bytes with two blocks, tiny-llama 70,228 with four.
 */
const GRAPH_BYTES = 8192;
const GRAPH_BYTES_PER_BLOCK = 20_480;

/** Tensors from a mebibyte begin at a page. */
const PAGED_BYTES = 2 ** 20;
const PAGE_BYTES = 4096;

/** Journal line and safetensors header of a committed layer. */
export const COMMIT_BYTES_PER_LAYER = 2048;

/** Elements of a shape. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/**
 * Bytes of an exported model: dense tensors and scales in `dtype` (tables in their own bits), packed signs and codes, the graph.
 *
 * @param storages What each layer is stored as, in their order; a layer without is dense.
 */
export function exportedBytes(
  layers: readonly LayerShape[],
  storages: readonly (LayerStorage | undefined)[],
  dense: readonly DenseTensor[],
  blocks: number,
  dtype: "f32" | "f16",
): number {
  const bytes = DENSE_BYTES[dtype];
  let total = GRAPH_BYTES + GRAPH_BYTES_PER_BLOCK * blocks;
  for (const { name, shape, bits } of dense) {
    total += pagedBytes(bits === undefined ? bytes * elementsOf(shape) : tableBytes(name, shape, bits, bytes));
  }
  layers.forEach((layer, i) => {
    const storage = storages[i];
    total += storage === undefined ? pagedBytes(bytes * layer.rows * layer.cols) : layerBytes(storage, bytes);
  });
  return total;
}

/** Most bytes that a layer takes in an exported model whose scales take `scaleBytes` each: its own and those before its pages. */
export function layerBytes(storage: LayerStorage, scaleBytes: number): number {
  const own = storedBytes(storage, scaleBytes);
  // two sign matrices, or codes and zero points
  return storage.packedBytes < PAGED_BYTES ? own : own + 2 * PAGE_BYTES;
}

function pagedBytes(bytes: number): number {
  return bytes < PAGED_BYTES ? bytes : bytes + PAGE_BYTES;
}

/** The fewest bits per weight that give every layer a middle dimension where one decides its size; 0 where none does. */
export function fewestBits(layers: readonly LayerShape[], storageOf: StorageOf): number {
  return Math.max(0, ...layers.filter((layer) => storageOf(layer, 1).ranked).map(smallestBits));
}

/** What a layer is stored as at a number of sign bits per weight, or at its own size where it is not `ranked`. */
export function storageAt(layer: LayerShape, bitsPerWeight: number, storageOf: StorageOf): LayerStorage {
  const fixed = storageOf(layer, 1);
  return fixed.ranked ? storageOf(layer, rankForBits(layer, bitsPerWeight)) : fixed;
}

/**
 * The most sign bits per weight at which an exported model, uniformly compressed where bits decide, is no larger than
 * `sizeBytes`; by bisection to 1e-4 bits.
 *
 * @param storageOf Default: every layer is double-binary.
 * @throws {RangeError} when even the fewest bits are too large, naming that size, or there is nothing to compress.
 */
export function bitsForSize(
  sizeBytes: number,
  layers: readonly LayerShape[],
  dense: readonly DenseTensor[],
  blocks: number,
  dtype: "f32" | "f16",
  storageOf: StorageOf = dbfStorage,
): number {
  const sizeAt = (bits: number) =>
    exportedBytes(layers, layers.map((layer) => storageAt(layer, bits, storageOf)), dense, blocks, dtype);
  if (layers.length === 0) throw new RangeError(`Cannot reach ${sizeBytes} bytes as no layer is selected to compress`);
  const least = fewestBits(layers, storageOf);
  let low = least;
  let high = MAX_BITS_PER_WEIGHT;
  if (sizeAt(low) > sizeBytes) throw sizeTooSmall(sizeBytes, sizeAt(low), dtype);
  if (sizeAt(high) <= sizeBytes) return high;
  while (high - low > 1e-4) {
    const middle = (low + high) / 2;
    if (sizeAt(middle) <= sizeBytes) low = middle;
    else high = middle;
  }
  return Math.max(Math.floor(low * 1e4) / 1e4, least);
}

/** The error of a size that cannot be reached. */
export function sizeTooSmall(sizeBytes: number, smallest: number, dtype: "f32" | "f16"): RangeError {
  return new RangeError(
    `Cannot reach --size ${sizeBytes} as the smallest export in ${dtype} has ${smallest} bytes` +
      `${dtype === "f32" ? ": --dtype f16 halves what stays dense" : ""}: current value is ${sizeBytes}`,
  );
}
