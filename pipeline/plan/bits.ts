/**
 * Bits, middle dimensions and bytes of one factorized layer.
 *
 * @module
 */
import { packedBytes } from "../../kernels/layout.ts";

/** Rows n and columns m of a weight; the name is for errors. */
export interface WeightShape {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
}

/** Highest sign bits per weight accepted: beyond it the dense f16 weight is smaller. */
export const MAX_BITS_PER_WEIGHT = 16;

/**
 * Middle dimension at a bit budget: k = floor(bits·n·m/(n+m)), since A (n,k) and B (k,m) have k(n+m) signs. It is not
 * clamped at min(n,m): at 2 bits a square layer has k = n.
 *
 * @param bitsPerWeight Sign bits for each of the n·m weights.
 * @returns k ≥ 1.
 * @throws {RangeError} when k would be 0, naming the smallest usable bits, or the bits are not in (0, 16].
 *
 * @example
 * ```ts
 * import { assertEquals, assertThrows } from "@std/assert";
 * import { rankForBits } from "./bits.ts";
 *
 * assertEquals(rankForBits({ name: "w", rows: 4096, cols: 4096 }, 2), 4096);
 * assertThrows(() => rankForBits({ name: "w", rows: 64, cols: 2 }, 0.5), RangeError, "use at least 0.515625");
 * ```
 */
export function rankForBits(layer: WeightShape, bitsPerWeight: number): number {
  const { name, rows, cols } = layer;
  if (!(bitsPerWeight > 0 && bitsPerWeight <= MAX_BITS_PER_WEIGHT)) {
    throw new RangeError(
      `Cannot factorize at such a budget, which must be above 0 and at most ${MAX_BITS_PER_WEIGHT} bits a weight: ` +
        `current value is ${bitsPerWeight}`,
    );
  }
  // The tiny addition keeps an exact budget, read back from decimals, from losing a whole row.
  const rank = Math.floor(bitsPerWeight * rows * cols / (rows + cols) + 1e-9);
  if (rank < 1) {
    throw new RangeError(
      `Cannot factorize "${name}" at ${bitsPerWeight} bits as the middle dimension would be 0: ` +
        `use at least ${smallestBits(layer)} or keep it with --keep '${patternFor(name)}'`,
    );
  }
  return rank;
}

/** Fewest sign bits per weight that give k = 1, rounded up to six digits. */
export function smallestBits({ rows, cols }: Pick<WeightShape, "rows" | "cols">): number {
  return Math.ceil((rows + cols) / (rows * cols) * 1e6) / 1e6;
}

/** Sign bits per weight of a middle dimension: k(n+m)/(nm). */
export function signBitsPerWeight({ rows, cols }: Pick<WeightShape, "rows" | "cols">, rank: number): number {
  return rank * (rows + cols) / (rows * cols);
}

/** Bytes of both packed sign matrices, padding included. */
export function signBytes({ rows, cols }: Pick<WeightShape, "rows" | "cols">, rank: number): number {
  return packedBytes(rows, rank) + packedBytes(rank, cols);
}

/** The part of a weight's name that says which linear it is: `up_proj` of `model.layers.3.mlp.up_proj.weight`. */
function patternFor(name: string): string {
  const parts = name.split(".");
  return parts.at(-1) === "weight" && parts.length > 1 ? parts[parts.length - 2] : name;
}
