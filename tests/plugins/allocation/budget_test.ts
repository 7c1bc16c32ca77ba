import { assert, assertEquals, assertThrows } from "@std/assert";
import * as fc from "fast-check";
import { fillBudget } from "../../../plugins/allocation/budget.ts";
import type { BudgetOptions } from "../../../plugins/allocation/budget_options.ts";
import { planRanges, stepOf } from "../../../plugins/allocation/ranges.ts";

const RELATIVE = { min: 0.5, max: 2 };

const shapes = fc.array(
  fc.record({ rows: fc.integer({ min: 1, max: 5000 }), cols: fc.integer({ min: 1, max: 5000 }) }),
  { minLength: 1, maxLength: 12 },
).map((all) => all.map((shape, index) => ({ name: `layers.${index}.weight`, ...shape })));

const optionsOf = fc.record({
  step: fc.constantFrom(1, 8, 24, 32, 128),
  minBits: fc.option(fc.double({ min: 0.05, max: 1, noNaN: true }), { nil: undefined }),
  maxBits: fc.option(fc.double({ min: 1, max: 6, noNaN: true }), { nil: undefined }),
  overrides: fc.constantFrom<Record<string, number>>({}, { "layers\\.0\\.": 2.5 }, { "0": 0.6, "layers.0": 3 }),
});

const bits = fc.double({ min: 0.02, max: 6, noNaN: true });
const values = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 12, maxLength: 12 });

function spend(layers: Parameters<typeof planRanges>[0], mean: number, options: BudgetOptions, weights: number[]) {
  const budget = planRanges(layers, mean, options, RELATIVE);
  const { ranks } = fillBudget(budget, (index, from) => weights[index] / (1 + from));
  return { budget, ranks };
}

Deno.test("fillBudget() is never above the budget, and never below it by more than one step of a layer", () => {
  let met = 0, refused = 0;
  fc.assert(
    fc.property(shapes, bits, optionsOf, values, (layers, mean, options, weights) => {
      let result;
      try {
        result = spend(layers, mean, options, weights);
      } catch (error) {
        assert(error instanceof RangeError);
        refused++;
        return;
      }
      met++;
      const { budget, ranks } = result;
      const elements = layers.reduce((total, { rows, cols }) => total + rows * cols, 0);
      const spent = layers.reduce((total, { rows, cols }, i) => total + ranks[i] * (rows + cols), 0);
      assert(spent <= mean * elements * (1 + 1e-9) + 1e-6);
      budget.ranges.forEach(({ step, bitsPerRank, least, most }, i) => {
        assert(Number.isInteger(ranks[i]) && ranks[i] >= 1 && ranks[i] >= least && ranks[i] <= most);
        assert(ranks[i] % step === 0 || ranks[i] < step);
        if (ranks[i] < most) assert(budget.signBits - spent < step * bitsPerRank);
      });
      const free = budget.ranges.filter(({ override }) => override === undefined);
      if (free.length > 0) {
        assert(budget.signBits - spent <= Math.max(...free.map(({ step, bitsPerRank }) => step * bitsPerRank)));
      }
    }),
    { numRuns: 400, seed: 9 },
  );
  assert(met > 100 && refused > 20, `${met} met, ${refused} refused`);
});

Deno.test("planRanges() respects minimum, maximum and overrides of every layer, up to one step", () => {
  fc.assert(
    fc.property(shapes, bits, optionsOf, values, (layers, mean, options, weights) => {
      let ranks: number[], budget;
      try {
        ({ ranks, budget } = spend(layers, mean, options, weights));
      } catch {
        return;
      }
      layers.forEach(({ rows, cols }, i) => {
        const oneBit = rows * cols / (rows + cols), step = stepOf({ rows, cols }, options.step);
        const { override } = budget.ranges[i];
        if (override !== undefined) {
          const wanted = options.overrides[override] * oneBit;
          assert(ranks[i] === 1 || ranks[i] <= wanted + 1e-6 && ranks[i] > wanted - step);
          return;
        }
        // a maximum that is below the rounded minimum gives way to it
        const least = options.minBits === undefined ? 1 : step * Math.ceil(options.minBits * oneBit / step - 1e-9);
        assert(ranks[i] >= least);
        if (options.maxBits !== undefined) assert(ranks[i] <= Math.max(1, least, options.maxBits * oneBit + 1e-6));
      });
    }),
    { numRuns: 400, seed: 10 },
  );
});

Deno.test("planRanges() refuses an impossible budget and names the smallest possible one", () => {
  let refused = 0;
  const tiny = fc.double({ min: 0.0001, max: 0.5, noNaN: true });
  fc.assert(
    fc.property(shapes, tiny, optionsOf, values, (layers, mean, { step, minBits, overrides }, weights) => {
      const options = { step, minBits, overrides };
      try {
        spend(layers, mean, options, weights);
      } catch (error) {
        const smallest = Number(/use at least ([\d.e-]+)$/.exec((error as Error).message)?.[1]);
        if (!(smallest <= 16)) return; // layers of one row need more than any budget
        refused++;
        assert(smallest > mean);
        spend(layers, smallest, options, weights);
        if (smallest > 3e-6) assertThrows(() => spend(layers, smallest - 2e-6, options, weights), RangeError);
      }
    }),
    { numRuns: 300, seed: 11 },
  );
  assert(refused > 20);
});

Deno.test("planRanges() refuses a budget that its maximum cannot spend, naming the largest", () => {
  const layers = [{ name: "a", rows: 512, cols: 512 }];
  const options = { step: 32, maxBits: 1.5, overrides: {} };
  assertThrows(() => planRanges(layers, 3, options, RELATIVE), RangeError, "use at most 1.5, or raise maxBits");
  assertEquals(planRanges(layers, 1.5, options, RELATIVE).ranges[0].most, 384);
});

Deno.test("planRanges() refuses overrides that match nothing or are malformed, and minimum above maximum", () => {
  const layers = [{ name: "model.q_proj.weight", rows: 64, cols: 64 }];
  const attempt = (options: Partial<BudgetOptions>) => () =>
    planRanges(layers, 1, { step: 32, overrides: {}, ...options }, RELATIVE);
  assertThrows(attempt({ overrides: { v_proj: 2 } }), RangeError, "no layer's name matches it");
  assertThrows(attempt({ overrides: { "*": 2 } }), SyntaxError, "regular expression");
  assertThrows(attempt({ overrides: { q_proj: 2 } }), RangeError, "use at least 2");
  assertThrows(attempt({ minBits: 2, maxBits: 1 }), RangeError, "minBits above maxBits");
});

Deno.test("fillBudget() with equal values gives equal bits", () => {
  const layers = [[64, 64], [64, 192], [128, 512]].map(([rows, cols], i) => ({ name: `${i}`, rows, cols }));
  const budget = planRanges(layers, 1.5, { step: 1, overrides: {} }, { min: 0, max: 16 });
  const { ranks } = fillBudget(budget, () => 0);
  // 153.6 is rounded down, and what that leaves buys a channel of each of the others
  assertEquals(ranks, [49, 73, 153]);
});
