/**
 * Why a layer got its middle dimension, as text for tables.
 *
 * @module
 */
import type { RankRange } from "./ranges.ts";

/**
 * One line: the bits, and the override, bound or `why` that led to them.
 *
 * @param sharers Layers that have the middle dimension in common.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { describeRank } from "./reason.ts";
 *
 * const range = { name: "w", bitsPerRank: 128, elements: 4096, step: 8, least: 16, most: 64 };
 * assertEquals(describeRank(range, 64, "worth it"), "2.00 bits, the most allowed: worth it");
 * ```
 */
export function describeRank(range: Omit<RankRange, "cost">, rank: number, why: string, sharers = 1): string {
  const bits = `${(rank * range.bitsPerRank / range.elements).toFixed(2)} bits`;
  if (range.override !== undefined) return `${bits}, override ${range.override}`;
  if (range.least === range.most) return `${bits}, the only choice`;
  const shared = sharers > 1 ? `, one choice for ${sharers} layers` : "";
  if (rank === range.least) return `${bits}, the least allowed${shared}: ${why}`;
  if (rank === range.most) return `${bits}, the most allowed${shared}: ${why}`;
  return `${bits}${shared}: ${why}`;
}
