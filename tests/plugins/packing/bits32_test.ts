import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { signBitBudget } from "../../../pipeline/plan/allocation_budget.ts";
import { rankForBits } from "../../../pipeline/plan/bits.ts";
import type { LayerJob, PackedLayer, StageContext } from "../../../pipeline/stream/stage.ts";
import { uniformAllocation } from "../../../plugins/allocation/uniform.ts";
import { bits32 } from "../../../plugins/packing/bits32.ts";
import { unpackFactors } from "../../../plugins/packing/unpack.ts";
import { fakeFactors, fakeRuntime } from "../../pipeline/fake_stages.ts";

const context: StageContext = {
  runtime: fakeRuntime,
  signal: new AbortController().signal,
  scratch: "",
  emit: () => {},
};

const jobOf = (rows: number, cols: number, rank: number): LayerJob => ({
  name: "layers.0.up_proj.weight",
  block: 0,
  role: "mlp.up_proj",
  rows,
  cols,
  rank,
  seed: 5,
});

const pack = (job: LayerJob, factors = fakeFactors(job, new Float32Array(job.cols).fill(0.1))) =>
  bits32.run({ job, factors }, {}, context);

Deno.test("bits32 and unpackFactors() round-trip every shape", async () => {
  const size = fc.integer({ min: 1, max: 70 });
  await fc.assert(
    fc.asyncProperty(size, size, size, async (rows, cols, rank) => {
      const job = jobOf(rows, cols, rank);
      const factors = fakeFactors(job, Float32Array.from({ length: cols }, (_, i) => (i - 3) * 1e-30));
      assertEquals(unpackFactors(job.name, [rows, cols], await pack(job, factors)), factors);
    }),
    { numRuns: 100, seed: 1 },
  );
});

Deno.test("bits32 stays within its estimate and refuses wrong shapes and scales that are not finite", async () => {
  const job = jobOf(48, 40, 33);
  const { tensors } = await pack(job);
  const bytes = Object.values(tensors).reduce((total, { data }) => total + data.length, 0);
  assert(bytes <= bits32.estimate(job, {}).peakBytes);
  const factors = fakeFactors(job, new Float32Array(40));
  const refused = (change: Partial<typeof factors>, part: string) =>
    assertRejects(async () => await pack(job, { ...factors, ...change }), RangeError, part);
  await refused({ a: new Float32Array(48).fill(NaN) }, "a[0] must be a finite scale: current value is NaN");
  await refused({ mid: new Float32Array(32) }, "mid must have 33 scales");
  await refused({ rank: 32 }, "its factors must be 48x33 and 33x40");
  await refused({ B: factors.A }, "its factors must be 48x33 and 33x40");
});

Deno.test("unpackFactors() refuses impossible layers", async () => {
  const job = jobOf(20, 10, 5);
  const layer = await pack(job);
  const refused = (change: Partial<PackedLayer>, part: string) => {
    const error = assertThrows(() => unpackFactors(job.name, [20, 10], { ...layer, ...change })) as Error;
    assert(error.message.includes(part) && error.message.includes(job.name), error.message);
  };
  refused({ kind: "mystery" }, "its kind is mystery");
  refused({ attributes: { ...layer.attributes, layout: 99 } }, "layout");
  refused({ attributes: { ...layer.attributes, rank: 1e12 } }, "rank");
  refused({ attributes: { ...layer.attributes, rank: 6.5 } }, "rank");
  refused({ attributes: { ...layer.attributes, rank: 500 } }, "bytes");
  refused({ tensors: { ...layer.tensors, mid: layer.tensors.a } }, "mid must have 5 scales");
  refused({ tensors: { ...layer.tensors, A: layer.tensors.a } }, "tensor A must be U8");
  const { b: _, ...withoutB } = layer.tensors;
  refused({ tensors: withoutB }, "tensor b must be F32: current value is absent");
  assertThrows(() => unpackFactors(job.name, [20, 10, 3], layer), RangeError, "matrix");
});

Deno.test("uniform allocation is not clamped at the smaller side", async () => {
  const layers = [jobOf(4096, 1024, 1), jobOf(64, 64, 1)].map((layer, index) => ({ ...layer, name: `w${index}` }));
  const ranks = await uniformAllocation.run(
    {
      layers,
      bitsPerWeight: 3,
      budget: signBitBudget(layers, 3),
      importance: new Map(),
      weight: () => {
        throw new Error("not read");
      },
      seed: 0,
      candidates: new Map(),
      offer: () => {},
    },
    { step: 1, overrides: {} },
    context,
  );
  for (const layer of layers) assertEquals(ranks.get(layer.name)?.rank, rankForBits(layer, 3));
  assert(ranks.get("w0")!.rank > 1024);
});
