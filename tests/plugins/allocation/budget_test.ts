import { assert, assertEquals, assertThrows } from "@std/assert";
import * as fc from "fast-check";
import { byteBudget } from "../../../pipeline/plan/allocation_budget.ts";
import { type Choice, spendBudget } from "../../../plugins/allocation/budget.ts";
import type { BudgetOptions } from "../../../plugins/allocation/budget_options.ts";
import { planRanges, stepOf } from "../../../plugins/allocation/ranges.ts";
import { spendEqually, spendRanks } from "../../../plugins/allocation/spend.ts";

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
  const { ranks } = spendRanks(budget, (index, rank) => -weights[index] * Math.log(1 + rank));
  return { budget, ranks };
}

Deno.test("planRanges() and spendRanks() are never above the budget, and never below it by more than one step of a layer", () => {
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
        if (ranks[i] < most) assert(budget.total - spent < step * bitsPerRank);
      });
      const free = budget.ranges.filter(({ override }) => override === undefined);
      if (free.length > 0) {
        assert(budget.total - spent <= Math.max(...free.map(({ step, bitsPerRank }) => step * bitsPerRank)));
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

Deno.test("spendEqually() gives equal bits", () => {
  const layers = [[64, 64], [64, 192], [128, 512]].map(([rows, cols], i) => ({ name: `${i}`, rows, cols }));
  const budget = planRanges(layers, 1.5, { step: 1, overrides: {} }, { min: 0, max: 16 });
  // 153.6 is rounded down, and what that leaves buys a channel of each of the others
  assertEquals(spendEqually(budget), [49, 73, 153]);
});

Deno.test("a budget of bytes is never exceeded, and no layer could still afford its next step", () => {
  let met = 0, refused = 0;
  fc.assert(
    fc.property(
      shapes,
      bits,
      optionsOf,
      values,
      fc.constantFrom(2, 4),
      (layers, mean, options, weights, scaleBytes) => {
        const other = 100_000;
        const elements = layers.reduce((total, { rows, cols }) => total + rows * cols, 0);
        const size = other + Math.ceil(mean * elements / 8);
        const budget = byteBudget(size, other, scaleBytes);
        let spend;
        try {
          spend = planRanges(layers, mean, options, RELATIVE, budget);
        } catch (error) {
          refused++;
          const smallest = Number(/use at least (\d+)$/.exec((error as Error).message)?.[1]);
          if (Number.isNaN(smallest)) return assert(/overrid|minBits/.test((error as Error).message));
          assert(smallest > size);
          planRanges(layers, mean, options, RELATIVE, byteBudget(smallest, other, scaleBytes));
          assertThrows(() => planRanges(layers, mean, options, RELATIVE, byteBudget(smallest - 1, other, scaleBytes)));
          return;
        }
        met++;
        const { ranks } = spendRanks(spend, (index, rank) => -weights[index] * Math.log(1 + rank));
        const spent = layers.reduce((total, layer, i) => total + budget.cost(layer, ranks[i]), 0);
        assert(spent <= budget.total);
        spend.ranges.forEach(({ step, most, cost }, i) => {
          const next = Math.min(most, (Math.floor(ranks[i] / step) + 1) * step);
          if (ranks[i] < most) assert(cost(next) - cost(ranks[i]) > budget.total - spent);
        });
      },
    ),
    { numRuns: 400, seed: 12 },
  );
  assert(met > 100 && refused > 20, `${met} met, ${refused} refused`);
});

Deno.test("spendBudget() finds the best total where costs are equal and losses convex, and is near it elsewhere", () => {
  const ladder = fc.array(fc.record({ step: fc.integer({ min: 1, max: 4 }), saves: fc.integer({ min: 0, max: 50 }) }), {
    maxLength: 4,
  });
  const best = (ladders: readonly Choice[][], total: number): number => {
    if (ladders.length === 0) return 0;
    const [first, ...rest] = ladders;
    return Math.min(
      ...first.filter(({ cost }) => cost <= total).map(({ cost, loss }) => loss + best(rest, total - cost)),
      Infinity,
    );
  };
  fc.assert(
    fc.property(fc.array(ladder, { minLength: 1, maxLength: 4 }), fc.integer({ min: 0, max: 30 }), fc.boolean(), (
      all,
      total,
      easy,
    ) => {
      const ladders = all.map((steps) => {
        const rungs = easy ? steps.map(({ saves }) => ({ step: 1, saves })).sort((a, b) => b.saves - a.saves) : steps;
        let cost = 0, loss = 200;
        return [{ cost, loss }, ...rungs.map(({ step, saves }) => ({ cost: cost += step, loss: loss -= saves }))];
      });
      const { picks } = spendBudget(ladders, total);
      const chosen = picks.map((pick, i) => ladders[i][pick]);
      const sum = (of: (choice: Choice) => number) => chosen.reduce((all, choice) => all + of(choice), 0);
      assert(sum(({ cost }) => cost) <= total);
      const optimum = best(ladders, total), start = 200 * ladders.length;
      if (easy) assertEquals(sum(({ loss }) => loss), optimum);
      // Dantzig: greedy by slope saves at least what the optimum does, less the one step that didn't fit.
      const largest = Math.max(0, ...ladders.map((each) => each[0].loss - each.at(-1)!.loss));
      assert(start - sum(({ loss }) => loss) >= start - optimum - largest);
    }),
    { numRuns: 500, seed: 13 },
  );
});
