import { assert, assertEquals } from "@std/assert";
import * as fc from "fast-check";
import { type Rung, type Sharer, spendLadders } from "../../../plugins/allocation/share.ts";

const RANKS = [1, 2, 4, 5];

/** Layers of two roles, one of them with two shapes, in up to four blocks, and ladders of falling losses over them. */
const models = fc.record({
  blocks: fc.uniqueArray(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 4 }),
  wide: fc.integer({ min: 0, max: 3 }),
  falls: fc.array(fc.array(fc.integer({ min: 0, max: 40 }), { minLength: 3, maxLength: 3 }), {
    minLength: 8,
    maxLength: 8,
  }),
  convex: fc.boolean(),
}).map(({ blocks, wide, falls, convex }) => {
  const layers = blocks.flatMap((block, at): Sharer[] => [
    { block, role: "q_proj", rows: 2, cols: 2 },
    { block, role: "down_proj", rows: 2, cols: at === wide ? 3 : 2 },
  ]);
  const ladders = layers.map(({ rows, cols }, index): Rung[] => {
    const saves = convex ? falls[index].toSorted((x, y) => y - x) : falls[index];
    let loss = 200;
    return RANKS.map((rank, i) => ({ rank, cost: rank * (rows + cols), loss: i === 0 ? loss : loss -= saves[i - 1] }));
  });
  return { layers, ladders, least: ladders.reduce((sum, [{ cost }]) => sum + cost, 0) };
});
const extra = fc.integer({ min: 0, max: 150 });

const sum = (rungs: readonly Rung[], of: (rung: Rung) => number) => rungs.reduce((all, rung) => all + of(rung), 0);

/** Least sum of losses over all middle dimensions of all sets of layers, by trying them. */
function bestOf(ladders: readonly Rung[][], sets: readonly number[][], total: number): number {
  if (sets.length === 0) return 0;
  const [set, ...rest] = sets;
  return Math.min(
    Infinity,
    ...RANKS.map((_, rung) => {
      const chosen = set.map((index) => ladders[index][rung]), left = total - sum(chosen, ({ cost }) => cost);
      return left < 0 ? Infinity : sum(chosen, ({ loss }) => loss) + bestOf(ladders, rest, left);
    }),
  );
}

function setsOf(layers: readonly Sharer[], groupOf: (block: number) => number): number[][] {
  const key = ({ block, role, cols }: Sharer) => `${groupOf(block)} ${role} ${cols}`;
  return [...new Set(layers.map(key))].map((each) => layers.flatMap((layer, i) => key(layer) === each ? [i] : []));
}

Deno.test("spendLadders() with one group gives layers of one role and shape one middle dimension, near the best such total", () => {
  fc.assert(
    fc.property(models, extra, ({ layers, ladders, least }, more) => {
      const { rungs, sharers } = spendLadders(layers, ladders, least + more, 1);
      assert(sum(rungs, ({ cost }) => cost) <= least + more);
      const sets = setsOf(layers, () => 0);
      for (const set of sets) {
        assertEquals(new Set(set.map((index) => rungs[index].rank)).size, 1);
        for (const index of set) {
          assertEquals(sharers[index], set.length);
          assert(ladders[index].includes(rungs[index]), "a layer's rung is one of its own");
        }
      }
      // As with single layers: within the largest saving of one set, which is what may not have fitted, of the optimum.
      const largest = Math.max(...sets.map((set) =>
        sum(set.map((i) => ladders[i][0]), ({ loss }) => loss) -
        sum(set.map((i) => ladders[i].at(-1)!), ({ loss }) => loss)
      ));
      const found = sum(rungs, ({ loss }) => loss), optimum = bestOf(ladders, sets, least + more);
      assert(found >= optimum && found <= optimum + largest, `${found} against ${optimum}`);
      // No set could still afford its next middle dimension.
      const left = least + more - sum(rungs, ({ cost }) => cost);
      for (const set of sets) {
        const at = RANKS.indexOf(rungs[set[0]].rank) + 1;
        if (at === RANKS.length) continue;
        const price = sum(set.map((i) => ladders[i][at]), ({ cost }) => cost) -
          sum(set.map((i) => rungs[i]), ({ cost }) => cost);
        assert(price > left, `${price} would fit ${left}`);
      }
    }),
    { numRuns: 300, seed: 21 },
  );
});

Deno.test("spendLadders() splits blocks at the best border, tried all, and never loses by one more group", () => {
  let split = 0;
  fc.assert(
    fc.property(models, extra, ({ layers, ladders, least }, more) => {
      const lossWith = (groups: number) =>
        sum(spendLadders(layers, ladders, least + more, groups).rungs, ({ loss }) => loss);
      const one = lossWith(1), two = lossWith(2);
      const blocks = [...new Set(layers.map(({ block }) => block))].sort((x, y) => x - y);
      // Each side of a border as a model of its own roles: what one group does with other names of the roles.
      const tries = blocks.slice(1).map((border) => {
        const renamed = layers.map((layer) => ({ ...layer, role: `${layer.role} ${layer.block >= border}` }));
        return sum(spendLadders(renamed, ladders, least + more, 1).rungs, ({ loss }) => loss);
      });
      assertEquals(two, Math.min(one, ...tries));
      assert(lossWith(3) <= two);
      if (two < one) split++;
    }),
    { numRuns: 200, seed: 22 },
  );
  assert(split > 50, `${split} split`);
});

Deno.test("spendLadders() shares candidates that all layers of a group have, and leaves fixed layers alone", () => {
  const layers = [0, 1, 2].map((block): Sharer => ({ block, role: "v_proj", rows: 2, cols: 2 }));
  const ladder = RANKS.map((rank): Rung => ({ rank, cost: 10 * rank, loss: 100 / rank }));
  const exact: Rung = { rank: 0, method: "exact", cost: 25, loss: 1 };
  const withExact = [ladder[0], ladder[1], exact, ladder[2], ladder[3]];
  const chosen = (ladders: readonly Rung[][]) =>
    spendLadders(layers, ladders, 80, 1).rungs.map(({ rank, method }) => method ?? rank);
  assertEquals(chosen([withExact, withExact, withExact]), ["exact", "exact", "exact"]);
  assertEquals(chosen([withExact, ladder, withExact]), [2, 2, 2]);
  const fixed: Rung[] = [{ rank: 3, cost: 30, loss: 0 }];
  const { rungs, sharers } = spendLadders(layers, [withExact, fixed, withExact], 80, 1);
  assertEquals(rungs.map(({ rank, method }) => method ?? rank), ["exact", 3, "exact"]);
  assertEquals(sharers, [2, 1, 2]);
});
