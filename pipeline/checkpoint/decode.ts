/**
 * Stored elements to f32.
 *
 * @module
 */
import { bf16BitsToF32, f16BitsToF32 } from "./half.ts";
import type { WeightDType } from "./types.ts";

/**
 * Decodes stored elements; every type but F64 is exact, F64 is rounded to nearest.
 *
 * @param dtype Type of the stored elements, little-endian.
 * @param stored Their bytes; the start must be a multiple of the element size in its buffer.
 * @param out Receives one f32 for each element.
 *
 * F8_E4M3 is the variant without infinities (OCP 8-bit floating point, section 5.3): 0x7f and 0xff are NaN.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { decodeElements } from "./decode.ts";
 *
 * const out = new Float32Array(2);
 * decodeElements("F8_E4M3", Uint8Array.of(0x38, 0xfe), out);
 * assertEquals(out, Float32Array.of(1, -448));
 * ```
 */
export function decodeElements(dtype: WeightDType, stored: Uint8Array, out: Float32Array): void {
  const { buffer, byteOffset } = stored;
  switch (dtype) {
    case "F64":
      return out.set(new Float64Array(buffer, byteOffset, out.length));
    case "F32":
      return out.set(new Float32Array(buffer, byteOffset, out.length));
    case "F16":
      return void f16BitsToF32(new Uint16Array(buffer, byteOffset, out.length), out);
    case "BF16":
      return void bf16BitsToF32(new Uint16Array(buffer, byteOffset, out.length), out);
    case "F8_E4M3":
      return lookUp(E4M3, stored, out);
    case "F8_E5M2":
      return lookUp(E5M2, stored, out);
  }
}

function lookUp(table: Float32Array, stored: Uint8Array, out: Float32Array): void {
  for (let i = 0; i < out.length; i++) out[i] = table[stored[i]];
}

/** Sign, 4 bits of exponent (bias 7), 3 of mantissa; the top pattern is NaN instead of the 480 that it would be. */
const E4M3 = Float32Array.from({ length: 256 }, (_, bits) => {
  const sign = bits & 0x80 ? -1 : 1;
  const exponent = (bits >>> 3) & 15;
  const mantissa = bits & 7;
  if (exponent === 15 && mantissa === 7) return NaN;
  return exponent === 0 ? sign * mantissa * 2 ** -9 : sign * (8 + mantissa) * 2 ** (exponent - 10);
});

/** The upper half of an IEEE half. */
const E5M2 = f16BitsToF32(new Uint16Array(256).map((_, bits) => bits << 8));
