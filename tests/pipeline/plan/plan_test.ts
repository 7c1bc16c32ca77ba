import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import * as fc from "fast-check";
import { describeModel } from "../../../pipeline/model/describe.ts";
import { rankForBits, signBitsPerWeight, smallestBits } from "../../../pipeline/plan/bits.ts";
import { dbfStorage, storedBitsPerWeight, storedBytes } from "../../../pipeline/plan/storage.ts";
import { inventory } from "../../../pipeline/plan/inventory.ts";
import { planRun } from "../../../pipeline/plan/plan.ts";

const model = describeModel({
  model_type: "llama",
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 320,
});

Deno.test("rankForBits() is the largest middle dimension within the bits, for any shape", () => {
  const size = fc.integer({ min: 1, max: 40_000 });
  fc.assert(fc.property(size, size, fc.double({ min: 0.01, max: 8, noNaN: true }), (rows, cols, bits) => {
    const layer = { name: "w", rows, cols };
    if (bits * rows * cols / (rows + cols) < 1) {
      assertThrows(() => rankForBits(layer, bits), RangeError, `use at least ${smallestBits(layer)}`);
      if (smallestBits(layer) <= 16) assert(rankForBits(layer, smallestBits(layer)) >= 1);
      return;
    }
    const rank = rankForBits(layer, bits);
    assert(signBitsPerWeight(layer, rank) <= bits * (1 + 1e-9));
    assert(signBitsPerWeight(layer, rank + 1) > bits);
  }));
});

Deno.test("rankForBits() refuses budgets that are no number of bits", () => {
  for (const bits of [0, -1, 17, NaN, Infinity]) {
    assertThrows(() => rankForBits({ name: "w", rows: 64, cols: 64 }, bits), RangeError, `current value is ${bits}`);
  }
});

Deno.test("storedBitsPerWeight() counts 16-bit scales and the padding of the packed layout", () => {
  // 100 x 60 at k = 33: A is ceil(100/16) x ceil(33/32) lines of 64 bytes, B is ceil(33/16) x ceil(60/32).
  const bytes = 7 * 2 * 64 + 3 * 2 * 64;
  assertEquals(storedBytes(dbfStorage({ rows: 100, cols: 60 }, 33), 2), bytes + 2 * (100 + 33 + 60));
  assertAlmostEquals(
    storedBitsPerWeight({ rows: 100, cols: 60 }, dbfStorage({ rows: 100, cols: 60 }, 33)),
    8 * (bytes + 2 * (100 + 33 + 60)) / 6000,
    1e-12,
  );
});

Deno.test("inventory() sorts every tensor of the model into layers and dense tensors", () => {
  const { layers, dense } = inventory(model, { keep: ["\\.o_proj\\."] });
  assertEquals(layers.length, 12);
  assertEquals(dense.filter(({ name }) => name.includes("o_proj")).length, 2);
  assertEquals(dense.length, 1 + 2 * 2 + 1 + 1 + 2); // embedding, norms, final norm, head, kept
  assertEquals(inventory(model, { include: ["down_proj"] }).layers.map(({ cols }) => cols), [160, 160]);
  assertEquals(inventory(model, { filters: [{ minElements: 64 * 160 }] }).layers.length, 6);
  assertThrows(() => inventory(model, { keep: ["*"] }), SyntaxError, "--keep");
  assertThrows(() => inventory(model, { include: ["nothing"] }), RangeError, "no layer is selected");
});

Deno.test("planRun() adds up: totals are those of its table", () => {
  const stage = {
    kind: "factorization" as const,
    name: "test",
    estimate: ({ rows, cols, rank }: { rows: number; cols: number; rank: number }) => ({
      peakBytes: 100 * rows * cols,
      flops: rank,
    }),
  };
  const report = planRun({ inventory: inventory(model), bitsPerWeight: 1.5, stages: [stage], gflops: 1 });
  const elements = report.layers.reduce((sum, layer) => sum + layer.rows * layer.cols, 0);
  assertEquals(report.compressedParameters, elements);
  const signs = report.layers.reduce((sum, layer) => sum + layer.rank * (layer.rows + layer.cols), 0);
  assertAlmostEquals(report.signBitsPerWeight, signs / elements, 1e-12);
  assertEquals(report.flops, report.layers.reduce((sum, layer) => sum + layer.rank, 0));
  assertAlmostEquals(report.seconds, report.flops / 1e9, 1e-15);
  assert(report.exportBytes.f16 < report.exportBytes.f32);
  assert(report.exportBytes.f32 < report.uncompressedExportBytes.f32);
  assertEquals(report.diskBytes, report.artefactBytes + report.exportBytes.f32);
  assertEquals(report.scratchBytes, 0);
  assertEquals(JSON.parse(JSON.stringify(report)), report);
});

Deno.test("planRun() holds parallel jobs under the lease, unless one alone is larger", () => {
  const stage = { kind: "factorization" as const, name: "test", estimate: () => ({ peakBytes: 2 ** 30 }) };
  const peak = (parallelJobs: number, memoryBytes?: number) =>
    planRun({ inventory: inventory(model), stages: [stage], parallelJobs, memoryBytes, processBytes: 0 }).peakBytes;
  assertEquals(peak(1), 2 ** 30);
  assertEquals(peak(4), 4 * 2 ** 30);
  assertEquals(peak(4, 3 * 2 ** 30), 3 * 2 ** 30);
  assertEquals(peak(4, 2 ** 20), 2 ** 30);
});

Deno.test("planRun() finds the most bits for a size, and names the smallest size when there is none", () => {
  const parts = inventory(model);
  fc.assert(
    fc.property(fc.integer({ min: 320_000, max: 900_000 }), fc.constantFrom("f32", "f16"), (sizeBytes, dtype) => {
      const report = planRun({ inventory: parts, sizeBytes, dtype });
      assert(report.exportBytes[dtype] <= sizeBytes);
      if (report.bitsPerWeight < 15.74) {
        const more = planRun({ inventory: parts, bitsPerWeight: report.bitsPerWeight + 0.26, dtype });
        assert(more.exportBytes[dtype] > sizeBytes, `${report.bitsPerWeight} bits leave room`);
      }
    }),
    { numRuns: 50 },
  );
  const error = assertThrows(() => planRun({ inventory: parts, sizeBytes: 1000 }), RangeError, "--dtype f16");
  const smallest = Number(/smallest export in f32 has (\d+) bytes/.exec(error.message)?.[1]);
  assert(planRun({ inventory: parts, sizeBytes: smallest }).exportBytes.f32 <= smallest);
  assertThrows(() => planRun({ inventory: parts, sizeBytes: 1e6, bitsPerWeight: 2 }), RangeError, "at once");
  assertThrows(() => planRun({ inventory: parts, gflops: 0 }), RangeError, "GFLOP/s");
});
