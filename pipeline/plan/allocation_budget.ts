/**
 * Budgets that allocations spend: a mean of bits, or the bytes that a size leaves.
 *
 * @module
 */
import type { AllocationBudget } from "../stream/stage.ts";
import type { WeightShape } from "./bits.ts";
import { layerBytes } from "./sizes.ts";
import { dbfStorage } from "./storage.ts";

/**
 * Σ k(n+m) up to a mean of sign bits per weight.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { signBitBudget } from "./allocation_budget.ts";
 *
 * const layer = { name: "w", rows: 64, cols: 64 };
 * const { total, cost } = signBitBudget([layer], 1.5);
 * assertEquals([total, cost(layer, 48)], [6144, 6144]);
 * ```
 */
export function signBitBudget(layers: readonly WeightShape[], bitsPerWeight: number): AllocationBudget {
  const elements = layers.reduce((total, { rows, cols }) => total + rows * cols, 0);
  return {
    // The tiny addition keeps an exact budget, read back from decimals, from losing a step.
    total: Math.floor(bitsPerWeight * elements * (1 + 1e-12) + 1e-6),
    unit: "sign bits",
    cost: ({ rows, cols }, rank) => rank * (rows + cols),
    costOf: ({ codeBits }) => codeBits,
    tooSmall: (least, reasons) =>
      new RangeError(
        `Cannot allocate ${bitsPerWeight} bits a weight as ${reasons} in every layer need more: use at least ${
          Math.ceil(least / elements * 1e6) / 1e6
        }`,
      ),
  };
}

/**
 * Bytes of an exported model.
 *
 * @param sizeBytes The model with everything in it.
 * @param otherBytes What is not of these layers: the graph, dense weights, layers whose size is given.
 * @param scaleBytes Bytes of a scale in the export.
 */
export function byteBudget(sizeBytes: number, otherBytes: number, scaleBytes: number): AllocationBudget {
  return {
    total: sizeBytes - otherBytes,
    unit: "bytes",
    cost: (layer, rank) => layerBytes(dbfStorage(layer, rank), scaleBytes),
    costOf: (storage) => layerBytes(storage, scaleBytes),
    tooSmall: (least, reasons) =>
      new RangeError(
        `Cannot reach --size ${sizeBytes} as ${reasons} in every layer need more: use at least ${least + otherBytes}`,
      ),
  };
}
