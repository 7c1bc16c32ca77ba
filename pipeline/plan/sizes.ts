/**
 * Sizes of what a run writes.
 *
 * @module
 */
import type { LayerShape, LayerStorage } from "../stream/stage.ts";
import { MAX_BITS_PER_WEIGHT, rankForBits, smallestBits } from "./bits.ts";
import type { DenseTensor } from "./inventory.ts";
import { dbfStorage, storedBytes } from "./storage.ts";

/** What a layer is stored as at a middle dimension, which layers that are not `ranked` have none of. */
export type StorageOf = (layer: LayerShape, rank: number) => LayerStorage;

/** Bytes of an element of what stays dense. */
export const DENSE_BYTES = { f32: 4, f16: 2 } as const;

/** The graph itself, without weights: about 60 nodes of 250 bytes a block, functions, and alignment of external data. */
const GRAPH_BYTES = 65_536;
const GRAPH_BYTES_PER_BLOCK = 32_768;

/** Journal line and safetensors header of a committed layer. */
export const COMMIT_BYTES_PER_LAYER = 2048;

/** Elements of a shape. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/**
 * Bytes of an exported model: dense tensors and scales in `dtype`, packed signs and codes, the graph.
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
  for (const { shape } of dense) total += bytes * elementsOf(shape);
  layers.forEach((layer, i) => {
    const storage = storages[i];
    total += storage === undefined ? bytes * layer.rows * layer.cols : storedBytes(storage, bytes);
  });
  return total;
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
  const ranked = layers.filter((layer) => storageOf(layer, 1).ranked);
  const least = Math.max(0, ...ranked.map(smallestBits));
  let low = least;
  let high = MAX_BITS_PER_WEIGHT;
  if (sizeAt(low) > sizeBytes) {
    throw new RangeError(
      `Cannot reach --size ${sizeBytes} as the smallest export in ${dtype} has ${sizeAt(low)} bytes` +
        `${dtype === "f32" ? ": --dtype f16 halves what stays dense" : ""}: current value is ${sizeBytes}`,
    );
  }
  if (sizeAt(high) <= sizeBytes) return high;
  while (high - low > 1e-4) {
    const middle = (low + high) / 2;
    if (sizeAt(middle) <= sizeBytes) low = middle;
    else high = middle;
  }
  return Math.max(Math.floor(low * 1e4) / 1e4, least);
}
