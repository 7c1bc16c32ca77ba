/**
 * Seeded random bits, equal on every provider because they are made here and only unpacked on the device.
 *
 * @module
 */

/**
 * Fills words from a seed with a counter run through the finalizer of MurmurHash3 (public domain, A. Appleby) twice.
 *
 * @param seed 32 bits.
 * @param length Number of 32-bit words.
 *
 * @example
 * ```ts
 * import { assertEquals, assertNotEquals } from "@std/assert";
 * import { randomWords } from "./random_signs.ts";
 *
 * assertEquals(randomWords(7, 3), randomWords(7, 3));
 * assertNotEquals(randomWords(7, 3), randomWords(8, 3));
 * ```
 */
export function randomWords(seed: number, length: number): Uint32Array {
  const mix = (value: number): number => {
    let h = value | 0;
    h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    return h ^ (h >>> 16);
  };
  const start = mix(seed ^ 0x9e3779b9);
  const words = new Uint32Array(length);
  for (let i = 0; i < length; i++) words[i] = mix(mix(i + start) ^ start);
  return words;
}
