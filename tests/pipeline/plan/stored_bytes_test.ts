import { assertAlmostEquals, assertEquals } from "@std/assert";
import fc from "fast-check";
import { packSigns } from "../../../kernels/layout.ts";
import { describeModel } from "../../../pipeline/model/describe.ts";
import { signBitsPerWeight } from "../../../pipeline/plan/bits.ts";
import { dbfStorage, storedBitsPerWeight, storedBytes } from "../../../pipeline/plan/storage.ts";
import { inventory } from "../../../pipeline/plan/inventory.ts";
import { planRun } from "../../../pipeline/plan/plan.ts";

const MODEL = describeModel({
  model_type: "qwen2",
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 320,
});

Deno.test("storedBitsPerWeight() counts 16-bit scales and padding as they are stored", () => {
  // No padding: 16 (n + k + m) / nm beside k (n + m) / nm.
  const layer = { rows: 256, cols: 512 };
  assertAlmostEquals(
    storedBitsPerWeight(layer, dbfStorage(layer, 64)),
    signBitsPerWeight(layer, 64) + 16 * (256 + 64 + 512) / (256 * 512),
    1e-12,
  );
  fc.assert(fc.property(fc.nat(70), fc.nat(70), fc.nat(70), (n, m, k) => {
    const [rows, cols, rank] = [n + 1, m + 1, k + 1];
    const stored = [[rows, rank], [rank, cols]].reduce(
      (bytes, [r, c]) => bytes + packSigns({ rows: r, cols: c, words: new Uint32Array(r * Math.ceil(c / 32)) }).length,
      0,
    );
    assertEquals(storedBytes(dbfStorage({ rows, cols }, rank), 2), stored + 2 * (rows + rank + cols));
    const bits = 8 * (stored + 2 * (rows + rank + cols)) / (rows * cols);
    assertAlmostEquals(storedBitsPerWeight({ rows, cols }, dbfStorage({ rows, cols }, rank)), bits, 1e-9);
  }));
});

Deno.test("planRun() takes an allocation's ranks and reasons", () => {
  const { layers } = inventory(MODEL);
  const ranks = new Map(layers.map(({ name }, i) => [name, { rank: i + 1, reason: "measured" }]));
  const report = planRun({ inventory: inventory(MODEL), ranks });
  assertEquals(report.layers.map(({ rank }) => rank), layers.map((_, i) => i + 1));
  assertEquals(report.layers[0].reason, "measured");
});
