/**
 * 16-bit floats as bits in a `Uint16Array`, converted to and from f32; rounding is to nearest, ties to even.
 *
 * @module
 */

/**
 * f32 → IEEE half. V8's `Float16Array` does it natively; values beyond ±65504 become infinities.
 *
 * @param values Any number of f32 elements.
 * @param out Receives the bits; at least as long as `values`. Allocated by default.
 * @returns The bits, `values.length` elements.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { f32ToF16Bits } from "./half.ts";
 *
 * assertEquals(f32ToF16Bits(Float32Array.of(1, -2, 1e9)), Uint16Array.of(0x3c00, 0xc000, 0x7c00));
 * ```
 */
export function f32ToF16Bits(values: Float32Array, out: Uint16Array = new Uint16Array(values.length)): Uint16Array {
  checkRoom(values.length, out.length);
  new Float16Array(out.buffer, out.byteOffset, values.length).set(values);
  return out.length === values.length ? out : out.subarray(0, values.length);
}

/**
 * IEEE half → f32, exact.
 *
 * @param bits Half-precision bits.
 * @param out Receives the values; at least as long as `bits`. Allocated by default.
 * @returns The values, `bits.length` elements.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { f16BitsToF32 } from "./half.ts";
 *
 * assertEquals(f16BitsToF32(Uint16Array.of(0x3c00, 0x0001)), Float32Array.of(1, 2 ** -24));
 * ```
 */
export function f16BitsToF32(bits: Uint16Array, out: Float32Array = new Float32Array(bits.length)): Float32Array {
  checkRoom(bits.length, out.length);
  out.set(new Float16Array(bits.buffer, bits.byteOffset, bits.length));
  return out.length === bits.length ? out : out.subarray(0, bits.length);
}

/**
 * f32 → bfloat16, the upper half of the f32 pattern rounded to nearest even; NaN stays NaN.
 *
 * @param values Any number of f32 elements.
 * @param out Receives the bits; at least as long as `values`. Allocated by default.
 * @returns The bits, `values.length` elements.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { f32ToBf16Bits } from "./half.ts";
 *
 * assertEquals(f32ToBf16Bits(Float32Array.of(1, -0.5)), Uint16Array.of(0x3f80, 0xbf00));
 * ```
 */
export function f32ToBf16Bits(values: Float32Array, out: Uint16Array = new Uint16Array(values.length)): Uint16Array {
  checkRoom(values.length, out.length);
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++) {
    const word = words[i];
    // Above infinity's pattern lie the NaNs: keep one quiet bit so that truncation cannot make an infinity of them.
    out[i] = (word & 0x7fffffff) > 0x7f800000 ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return out.length === values.length ? out : out.subarray(0, values.length);
}

/**
 * bfloat16 → f32, exact.
 *
 * @param bits bfloat16 bits.
 * @param out Receives the values; at least as long as `bits`. Allocated by default.
 * @returns The values, `bits.length` elements.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { bf16BitsToF32 } from "./half.ts";
 *
 * assertEquals(bf16BitsToF32(Uint16Array.of(0x3f80, 0xbf00)), Float32Array.of(1, -0.5));
 * ```
 */
export function bf16BitsToF32(bits: Uint16Array, out: Float32Array = new Float32Array(bits.length)): Float32Array {
  checkRoom(bits.length, out.length);
  const words = new Uint32Array(out.buffer, out.byteOffset, bits.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i] << 16;
  return out.length === bits.length ? out : out.subarray(0, bits.length);
}

function checkRoom(needed: number, available: number): void {
  if (available < needed) {
    throw new RangeError(`Cannot convert ${needed} elements as the output is too short: current value is ${available}`);
  }
}
