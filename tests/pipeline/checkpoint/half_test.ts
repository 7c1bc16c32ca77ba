import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { bf16BitsToF32, f16BitsToF32, f32ToBf16Bits, f32ToF16Bits } from "../../../pipeline/checkpoint/half.ts";

const ALL_BITS = new Uint16Array(65536).map((_, i) => i);

/** f64 twin: value of sign, exponent and mantissa fields. */
function decode(bits: number, exponentBits: number, mantissaBits: number): number {
  const sign = bits >>> (exponentBits + mantissaBits) ? -1 : 1;
  const exponent = (bits >>> mantissaBits) & (2 ** exponentBits - 1);
  const mantissa = bits & (2 ** mantissaBits - 1);
  const bias = 2 ** (exponentBits - 1) - 1;
  if (exponent === 2 ** exponentBits - 1) return mantissa ? NaN : sign * Infinity;
  if (exponent === 0) return sign * mantissa * 2 ** (1 - bias - mantissaBits);
  return sign * (1 + mantissa * 2 ** -mantissaBits) * 2 ** (exponent - bias);
}

Deno.test("f16BitsToF32() and bf16BitsToF32() agree with the f64 twin on all 65536 patterns", () => {
  const half = f16BitsToF32(ALL_BITS);
  const brain = bf16BitsToF32(ALL_BITS);
  for (let bits = 0; bits < 65536; bits++) {
    assert(Object.is(half[bits], decode(bits, 5, 10)), `f16 ${bits}`);
    assert(Object.is(brain[bits], decode(bits, 8, 7)), `bf16 ${bits}`);
  }
});

Deno.test("f32ToF16Bits() and f32ToBf16Bits() give back every pattern that is not a NaN", () => {
  const half = f32ToF16Bits(f16BitsToF32(ALL_BITS));
  const brain = f32ToBf16Bits(bf16BitsToF32(ALL_BITS));
  for (let bits = 0; bits < 65536; bits++) {
    if (!Number.isNaN(decode(bits, 5, 10))) assertEquals(half[bits], bits);
    else assert(Number.isNaN(decode(half[bits], 5, 10)));
    if (!Number.isNaN(decode(bits, 8, 7))) assertEquals(brain[bits], bits);
    else assert(Number.isNaN(decode(brain[bits], 8, 7)));
  }
});

Deno.test("f32ToF16Bits() and f32ToBf16Bits() round to nearest, ties to even", () => {
  // Halfway between neighbours i and i+1 lies on the even one; a hair away lies on the nearer.
  for (const [encode, exponentBits, mantissaBits] of [[f32ToF16Bits, 5, 10], [f32ToBf16Bits, 8, 7]] as const) {
    const largest = (2 ** exponentBits - 1) * 2 ** mantissaBits - 1;
    for (let bits = 0; bits < largest; bits++) {
      const low = decode(bits, exponentBits, mantissaBits);
      const high = decode(bits + 1, exponentBits, mantissaBits);
      const middle = (low + high) / 2;
      const quarter = low + (high - low) / 4;
      const got = encode(Float32Array.of(middle, quarter, low + (high - low) * 0.75, -middle));
      if (Math.fround(middle) === middle) assertEquals(got[0], bits + (bits & 1), `middle of ${bits}`);
      if (Math.fround(quarter) === quarter) assertEquals([got[1], got[2]], [bits, bits + 1], `around ${bits}`);
      if (Math.fround(middle) === middle) assertEquals(got[3], 2 ** (exponentBits + mantissaBits) + bits + (bits & 1));
    }
    assertEquals(encode(Float32Array.of(3.4e38))[0], largest + 1, "overflow is infinity");
  }
});

Deno.test("half conversions write into a given array, at any offset, and leave the rest alone", () => {
  fc.assert(fc.property(fc.float32Array({ maxLength: 40, noNaN: true }), fc.nat(5), (values, offset) => {
    const room = new Uint16Array(values.length + offset + 3).fill(7);
    const out = f32ToBf16Bits(values, room.subarray(offset));
    assertEquals(out, f32ToBf16Bits(values));
    assertEquals([...room.subarray(offset + values.length)], [7, 7, 7]);
    const back = new Float32Array(values.length + offset);
    assertEquals(bf16BitsToF32(out, back.subarray(offset)), bf16BitsToF32(f32ToBf16Bits(values)));
    assertEquals(f32ToF16Bits(values, room.subarray(offset)), f32ToF16Bits(values));
  }));
});

Deno.test("half conversions refuse an output that is too short", () => {
  assertThrows(() => f32ToF16Bits(new Float32Array(4), new Uint16Array(3)), RangeError, "current value is 3");
  assertThrows(() => bf16BitsToF32(new Uint16Array(4), new Float32Array(3)), RangeError, "current value is 3");
});
