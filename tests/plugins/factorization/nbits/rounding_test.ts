import { assert, assertAlmostEquals, assertEquals, assertLess, assertRejects } from "@std/assert";
import * as v from "valibot";
import { openRuntime } from "../../../../kernels/runtime/open.ts";
import { storedBytes } from "../../../../pipeline/plan/storage.ts";
import { factorsOfKind } from "../../../../pipeline/stream/factors.ts";
import type { LayerImportance, NbitsFactors, Stage, StageContext } from "../../../../pipeline/stream/stage.ts";
import { hqq } from "../../../../plugins/factorization/nbits/hqq.ts";
import { roundToNearest } from "../../../../plugins/factorization/nbits/round_to_nearest.ts";
import { bits32 } from "../../../../plugins/packing/bits32.ts";
import { at, type Matrix, matrix, randomMatrix } from "../dbf_admm/twins.ts";
import { fixedJob, memoryHandle } from "../memory_handle.ts";
import { differingShare, groupOf, restoredWeight, twinGrid, twinHqq, twinRounding } from "./twins.ts";

const runtime = await openRuntime({ threads: 1 });
const context: StageContext = { runtime, signal: new AbortController().signal, scratch: "", emit: () => {} };

async function round(
  stage: typeof roundToNearest | typeof hqq,
  w: Matrix,
  options: Record<string, unknown>,
  importance?: LayerImportance,
): Promise<NbitsFactors> {
  const any = stage as unknown as Stage<"factorization">;
  const job = fixedJob("w", w);
  return factorsOfKind(
    "w",
    await any.run({ job, weight: memoryHandle("w", w), importance }, v.parse(any.options, options), context),
    "nbits",
  );
}

/** Shapes with one row, with one column, and with columns that are no multiple of the group. */
const SHAPES = [[1, 64], [7, 70], [5, 1], [33, 130]];

Deno.test("roundToNearest gives the nearest values of an f64 twin's grids, whatever the shape", async () => {
  for (const [rows, cols] of SHAPES) {
    for (const bits of [2, 3, 4, 8]) {
      for (const symmetric of [false, true]) {
        const w = randomMatrix(rows, cols, bits + rows);
        const made = await round(roundToNearest, w, { bits, group: 32, symmetric });
        const twin = twinRounding(w, 32, bits, (entries) => twinGrid(entries, bits, symmetric));
        // A quotient within f32 rounding of a half may go either way.
        const share = differingShare(restoredWeight(made), twin, 1e-5);
        assertLess(share, 0.002, `${rows}x${cols} ${bits} bits ${symmetric}: ${share}`);
      }
    }
  }
});

Deno.test("roundings report the importance-weighted error of what they return and pack into the bytes they said", async () => {
  const w = randomMatrix(9, 75, 3);
  const importance = {
    input: Float32Array.from({ length: 75 }, (_, j) => (1 + j % 7) / 3),
    output: Float32Array.from({ length: 9 }, (_, i) => 1 / (1 + i)),
  };
  for (
    const [stage, options] of [[roundToNearest, { bits: 3 }], [roundToNearest, { bits: 4, symmetric: true }], [hqq, {
      bits: 2,
    }]] as const
  ) {
    const settings = { group: 16, ...options };
    const made = await round(stage, w, settings, importance);
    const restored = restoredWeight(made);
    let lost = 0, all = 0;
    for (let i = 0; i < 9; i++) {
      for (let j = 0; j < 75; j++) {
        const weight = importance.input[j] * importance.output[i];
        lost += weight * (at(w, i, j) - at(restored, i, j)) ** 2;
        all += weight * at(w, i, j) ** 2;
      }
    }
    assertAlmostEquals(made.weightedError, lost / all, 1e-5 * lost / all + 1e-9);
    const job = fixedJob("w", w);
    const { tensors } = await bits32.run({ job, factors: made }, {}, context);
    const bytes = Object.values(tensors).reduce((sum, { data }) => sum + data.length, 0);
    const any = stage as unknown as Stage<"factorization">;
    assertEquals(bytes, storedBytes(any.stores!(job, v.parse(any.options, settings)), 4));
  }
});

Deno.test("hqq fits the grids of an f64 twin, and lowers the squared error with norm 2", async () => {
  const w = matrix(16, 100, (i, j) => at(randomMatrix(16, 100, 5), i, j) ** 3);
  const cost = (restored: Matrix) => w.data.reduce((sum, value, place) => sum + (value - restored.data[place]) ** 2, 0);
  const settings = { norm: 0.7, penalty: 4, growth: 1.1, iterations: 8 };
  for (const bits of [2, 3, 4]) {
    for (const change of [{}, { norm: 2, penalty: 1e-3 }]) {
      const own = { ...settings, ...change };
      const made = restoredWeight(await round(hqq, w, { bits, group: 64, ...own }));
      const twin = twinRounding(w, 64, bits, (entries) => twinHqq(entries, bits, own));
      // A code that goes the other way in f32 moves the grid of its group a little.
      const share = differingShare(made, twin, 1e-3);
      assertLess(share, 0.05, `${bits} bits, norm ${own.norm}: ${share}`);
      if (own.norm !== 2) continue;
      const plain = restoredWeight(await round(roundToNearest, w, { bits, group: 64 }));
      assertLess(cost(made), 0.99 * cost(plain), `${bits} bits`);
    }
  }
});

Deno.test("clipSteps never raises the weighted error, and finds what an f64 search over ranges finds", async () => {
  const w = matrix(6, 64, (i, j) => at(randomMatrix(6, 64, 8), i, j) ** 3);
  const made = await round(roundToNearest, w, { bits: 3, group: 32, clipSteps: 12 });
  let least = 0;
  for (let i = 0; i < 6; i++) {
    for (const index of [0, 1]) {
      const entries = groupOf(w, i, index, 32);
      const costs = Array.from({ length: 13 }, (_, step) => {
        const grid = twinGrid(entries, 3, false, 1 - 0.6 * step / 12);
        const row = { rows: 1, cols: entries.length, data: Float64Array.from(entries) };
        const restored = twinRounding(row, 32, 3, () => grid);
        return entries.reduce((sum, value, j) => sum + (value - restored.data[j]) ** 2, 0);
      });
      least += Math.min(...costs);
    }
  }
  const norm = w.data.reduce((sum, value) => sum + value * value, 0);
  assertAlmostEquals(made.weightedError, least / norm, 1e-4 * least / norm);
});

Deno.test("roundings keep zero rows, and refuse NaN and wrong shapes by name", async () => {
  const w = matrix(3, 40, (i, j) => i === 1 ? 0 : j - 20);
  for (const stage of [roundToNearest, hqq]) {
    const restored = restoredWeight(await round(stage, w, { bits: 2, group: 16 }));
    assert(Array.from({ length: 40 }, (_, j) => at(restored, 1, j)).every((value) => value === 0));
    const bad = { ...w, data: w.data.map((value, place) => place === 50 ? NaN : value) };
    await assertRejects(() => round(stage, bad, { bits: 2, group: 16 }), RangeError, '"w": it has NaN');
  }
  const job = { ...fixedJob("w", w), cols: 41 };
  await assertRejects(
    () =>
      roundToNearest.run(
        { job, weight: memoryHandle("w", w), importance: undefined },
        v.parse(roundToNearest.options, {}),
        context,
      ),
    RangeError,
    "as 3×41: its shape is [3, 40]",
  );
});
