import { assert, assertAlmostEquals } from "@std/assert";
import fc from "fast-check";
import { defaultRates } from "../../../pipeline/calibrate/default_rates.ts";

const job = (bits: number) => ({ rows: 96, cols: 160, rank: Math.round(bits * 60) }); // 60 = 96·160 / (96 + 160)

Deno.test("defaultRates() fall with the length of the training and with bits, scales at half the rate of latents", () => {
  const start = fc.constantFrom("factorized" as const, "equal" as const);
  fc.assert(
    fc.property(
      start,
      fc.integer({ min: 0, max: 20_000 }),
      fc.double({ min: 0.25, max: 3, noNaN: true }),
      (start, steps, bits) => {
        const { signs, scales } = defaultRates([job(bits)], steps, start);
        assert(signs > 0);
        assertAlmostEquals(scales, signs / 2);
        assert(defaultRates([job(bits)], 2 * steps + 1, start).signs <= signs);
        assert(defaultRates([job(2 * bits)], steps, start).signs <= signs);
      },
    ),
  );
});

Deno.test("defaultRates() go by the bits of all binary layers together, and take 1 bit where none is", () => {
  const [one, two] = [job(1), { ...job(2), rows: 960, cols: 1600, rank: 1200 }];
  const both = defaultRates([one, two], 1000, "factorized").signs;
  // 60·256 + 1200·2560 signs for 96·160 + 960·1600 weights
  assertAlmostEquals(both, 1.5e-2 * ((60 * 256 + 1200 * 2560) / (96 * 160 + 960 * 1600)) ** -0.85, 1e-12);
  const codes = { rows: 96, cols: 160, rank: 0 };
  assertAlmostEquals(
    defaultRates([one, codes], 1000, "factorized").signs,
    defaultRates([one], 1000, "factorized").signs,
  );
  assertAlmostEquals(defaultRates([codes], 1000, "factorized").signs, 1.5e-2);
  assertAlmostEquals(defaultRates([], 1000, "equal").signs, 9.2e-3);
});

Deno.test("defaultRates() of trainings of fewer than 128 steps are those of 128", () => {
  for (const steps of [0, 1, 127]) {
    assertAlmostEquals(
      defaultRates([job(2)], steps, "factorized").signs,
      defaultRates([job(2)], 128, "factorized").signs,
    );
  }
  assert(defaultRates([job(2)], 129, "factorized").signs < defaultRates([job(2)], 128, "factorized").signs);
});
