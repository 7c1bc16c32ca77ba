/**
 * Seeds that depend on what is computed, not on when.
 *
 * @module
 */

/**
 * FNV-1a over UTF-8, finished with murmur3's mixer so that names which differ in one digit give unrelated seeds.
 *
 * @param runSeed Seed of the run; any safe integer.
 * @param name Name of the tensor.
 * @returns A 32-bit unsigned integer.
 *
 * Source: http://www.isthe.com/chongo/tech/comp/fnv/ and MurmurHash3's `fmix32`.
 *
 * @example
 * ```ts
 * import { assert, assertEquals } from "@std/assert";
 * import { tensorSeed } from "./seed.ts";
 *
 * assertEquals(tensorSeed(1, "a"), tensorSeed(1, "a"));
 * assert(tensorSeed(1, "a") !== tensorSeed(2, "a"));
 * ```
 */
export function tensorSeed(runSeed: number, name: string): number {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(`${runSeed}\0${name}`)) hash = Math.imul(hash ^ byte, 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
