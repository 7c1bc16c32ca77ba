import { assertEquals, assertThrows } from "@std/assert";
import { checkSampling, sampleToken, type SamplingOptions, seededRandom } from "../../../pipeline/evaluate/sample.ts";

const LOGITS = [0, Math.log(3), Math.log(5), Math.log(1), -Infinity];

function frequencies(options: SamplingOptions, seen: ReadonlySet<number> = new Set()): number[] {
  const random = seededRandom(7);
  const counts = LOGITS.map(() => 0);
  for (let draw = 0; draw < 4000; draw++) counts[sampleToken(Float32Array.from(LOGITS), options, seen, random)]++;
  return counts.map((count) => Math.round(count / 400) / 10);
}

Deno.test("sampleToken() follows softmax, temperature, top-k, top-p and min-p", () => {
  assertEquals(frequencies({}), [0, 0, 1, 0, 0]);
  assertEquals(frequencies({ temperature: 1 }), [0.1, 0.3, 0.5, 0.1, 0]); // 1 : 3 : 5 : 1
  assertEquals(frequencies({ temperature: 1, topK: 2 }), [0, 0.4, 0.6, 0, 0]);
  assertEquals(frequencies({ temperature: 1, topP: 0.5 }), [0, 0, 1, 0, 0]);
  assertEquals(frequencies({ temperature: 1, topP: 0.7 }), [0, 0.4, 0.6, 0, 0]);
  assertEquals(frequencies({ temperature: 1, minP: 0.4 }), [0, 0.4, 0.6, 0, 0]);
  assertEquals(frequencies({ temperature: 2 }), [0.2, 0.3, 0.4, 0.2, 0]); // 1 : √3 : √5 : 1
});

Deno.test("sampleToken() makes tokens seen before less likely with a repetition penalty", () => {
  assertEquals(sampleToken(Float32Array.of(1, 1.5), { repetitionPenalty: 2 }, new Set([1]), Math.random), 0);
  assertEquals(sampleToken(Float32Array.of(-1.5, -1), { repetitionPenalty: 2 }, new Set([1]), Math.random), 0);
});

Deno.test("sampleToken() refuses logits that are not numbers", () => {
  assertThrows(() => sampleToken(Float32Array.of(NaN, NaN), {}, new Set(), Math.random), RangeError, "NaN");
});

Deno.test("checkSampling() names the option that is out of range", () => {
  checkSampling({ temperature: 0.7, topK: 40, topP: 0.95, minP: 0.05, repetitionPenalty: 1.1 });
  assertThrows(() => checkSampling({ topP: 0 }), RangeError, "topP");
  assertThrows(() => checkSampling({ temperature: -1 }), RangeError, "temperature");
  assertThrows(() => checkSampling({ topK: 1.5 }), RangeError, "topK");
});

Deno.test("seededRandom() gives the same numbers for the same seed, uniform in [0, 1)", () => {
  const a = seededRandom(1), b = seededRandom(1), c = seededRandom(2);
  const numbers = Array.from({ length: 1000 }, a);
  assertEquals(numbers, Array.from({ length: 1000 }, b));
  assertEquals(numbers[0] === c(), false);
  assertEquals(numbers.every((number) => number >= 0 && number < 1), true);
  const mean = numbers.reduce((sum, number) => sum + number / 1000, 0);
  assertEquals(Math.abs(mean - 0.5) < 0.03, true);
});
