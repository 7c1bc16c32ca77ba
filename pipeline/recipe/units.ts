/**
 * Byte counts as people write them.
 *
 * @module
 */

const UNIT_BYTES: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
};

/**
 * Parses `"4GiB"`, `"700 MB"`, `"1e9"` or a number into bytes.
 *
 * @returns Whole bytes, or `undefined` when the text is not a size above 0.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { parseBytes } from "./units.ts";
 *
 * assertEquals([parseBytes("1.5GiB"), parseBytes("700 MB"), parseBytes("lots")], [1610612736, 700000000, undefined]);
 * ```
 */
export function parseBytes(size: string | number): number | undefined {
  const [, digits, unit] = String(size).trim().match(/^([\d.]+(?:e\d+)?)\s*([a-z]*)$/i) ?? [];
  const bytes = Math.floor(Number(digits) * (UNIT_BYTES[(unit ?? "").toLowerCase()] ?? NaN));
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : undefined;
}
