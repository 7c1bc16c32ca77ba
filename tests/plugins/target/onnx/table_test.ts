import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertLess,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { openRuntime } from "../../../../kernels/runtime/open.ts";
import { viewCheckpoint } from "../../../../pipeline/artefact/checkpoint_view.ts";
import { describeArtefact } from "../../../../pipeline/artefact/describe.ts";
import { openCheckpoint } from "../../../../pipeline/checkpoint/open.ts";
import { evaluate } from "../../../../pipeline/evaluate/evaluate.ts";
import { openModel } from "../../../../pipeline/evaluate/open_model.ts";
import { exportModel } from "../../../../pipeline/export/export_model.ts";
import { roundGroups } from "../../../../pipeline/export/table_stream.ts";
import { createGraph } from "../../../../pipeline/graph/graph.ts";
import { writeModel } from "../../../../pipeline/graph/external_data.ts";
import { type TableBits, tableBits, tableBytes } from "../../../../pipeline/model/tables.ts";
import { inventory } from "../../../../pipeline/plan/inventory.ts";
import { planRun } from "../../../../pipeline/plan/plan.ts";
import { dbf } from "../../../pipeline/cli/run.ts";
import { onnxTarget } from "../../../../plugins/target/onnx/stage.ts";
import { tableOf } from "../../../../plugins/target/onnx/table.ts";
import { at, type Matrix, matrix, randomMatrix } from "../../factorization/dbf_admm/twins.ts";

const runtime = await openRuntime({ threads: 1 });

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "dbf-table-" });
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Bytes of `model.onnx` and its data. */
async function modelBytes(directory: string): Promise<number> {
  let bytes = 0;
  for await (const { name } of Deno.readDir(directory)) {
    if (name.startsWith("model.onnx")) bytes += (await Deno.stat(`${directory}/${name}`)).size;
  }
  return bytes;
}

/** The rounded table in f64: w ≈ s·(code − 2^(bits−1)), s = −m/2^(bits−1). */
function twin(w: Matrix, group: number, bits: number): Matrix {
  return matrix(w.rows, w.cols, (i, j) => {
    const start = j - j % group;
    let largest = 0;
    for (let k = start; k < start + group; k++) if (Math.abs(at(w, i, k)) > Math.abs(largest)) largest = at(w, i, k);
    const scale = -largest / 2 ** (bits - 1);
    return scale * Math.min(2 ** (bits - 1) - 1, Math.max(-(2 ** (bits - 1)), Math.round(at(w, i, j) / scale)));
  });
}

Deno.test("tables of 8 and 4 bits give rows and products of an f64 twin, from one copy of their bytes", () =>
  withFolder(async (folder) => {
    for (const [bits, rows, cols] of [[8, 37, 48], [4, 70, 64], [4, 1500, 32]] as const) {
      const w = randomMatrix(rows, cols, bits), values = Float32Array.from(w.data);
      const expected = twin(w, cols % 32 === 0 ? 32 : 16, bits);
      const g = createGraph("table");
      const tensor = {
        name: "embed",
        shape: [rows, cols],
        readRows: (start: number, end: number) => Promise.resolve(values.slice(start * cols, end * cols)),
      };
      const table = tableOf(g, tensor, bits, "float32");
      g.output("rows", table.rows(g.input("ids", "int64", ["batch", "sequence"])));
      g.output("logits", table.product(g.input("x", "float32", ["batch", "sequence", cols])));
      const { dataBytes } = await writeModel(g, folder, "model.onnx");
      // codes and scales once, aligned; small ones are in the model file
      assert(dataBytes <= tableBytes("embed", [rows, cols], bits, 4) + 128, `${dataBytes}`);
      await using session = await runtime.load(`${folder}/model.onnx`);
      const x = randomMatrix(3, cols, 1), ids = [rows - 1, 0, 5];
      const out = await session.run({
        ids: runtime.tensor("int64", BigInt64Array.from(ids, BigInt), [1, 3]),
        x: runtime.tensor("float32", Float32Array.from(x.data), [1, 3, cols]),
      });
      const found = await out.rows.read() as Float32Array, logits = await out.logits.read() as Float32Array;
      for (let i = 0; i < 3; i++) {
        for (let j = 0; j < cols; j++) assertAlmostEquals(found[i * cols + j], at(expected, ids[i], j), 1e-5);
        for (let row = 0; row < rows; row++) {
          let sum = 0;
          for (let j = 0; j < cols; j++) sum += at(x, i, j) * at(expected, row, j);
          assertAlmostEquals(logits[i * rows + row], sum, 2e-4);
        }
      }
    }
  }));

Deno.test("exports with embeddings of 16, 8 and 4 bits evaluate, are no larger than planned, and lose what rounding loses", () =>
  withFolder(async (folder) => {
    using source = viewCheckpoint(await openCheckpoint("tests/fixtures/tiny-llama"));
    const model = await describeArtefact(source);
    const ids = Int32Array.from({ length: 400 }, (_, i) => (31 * i) % 700);
    const perplexity: Record<string, number> = {};
    const sizes: number[] = [];
    for (const bits of [undefined, 16, 8, 4] as const) {
      const directory = `${folder}/${bits}`, tables = { embedding: bits };
      await exportModel({ source, model, directory, target: onnxTarget, tables });
      const chosen = inventory(model, { keep: ["."], tables });
      const planned = planRun({ inventory: chosen }).exportBytes.f32, written = await modelBytes(directory);
      assert(written <= planned && planned - written < 60_000, `${bits}: ${written} written, ${planned} planned`);
      sizes.push(written);
      await using opened = await openModel(directory, runtime);
      perplexity[String(bits)] = (await evaluate(opened, ids, { context: 100 })).perplexity;
    }
    const relative = (bits: number) => Math.abs(Math.log(perplexity[bits] / perplexity.undefined));
    assertLess(relative(16), 1e-3);
    assertLess(relative(8), 0.02);
    assertLess(relative(4), 0.3);
    assertEquals([...sizes].sort((a, b) => b - a), sizes);
  }));

Deno.test("a head of its own is stored in its own bits, a tied one is the embedding's table, and wrong wishes are refused", () =>
  withFolder(async (folder) => {
    using source = viewCheckpoint(await openCheckpoint("tests/fixtures/architectures/mistral"));
    const model = await describeArtefact(source);
    assertEquals(model.tiedHead, false);
    const size = async (tables: { embedding?: TableBits; head?: TableBits }) => {
      const directory = `${folder}/${JSON.stringify(tables)}`;
      await exportModel({ source, model, directory, target: onnxTarget, tables });
      await using opened = await openModel(directory, runtime);
      const ids = Int32Array.from({ length: 60 }, (_, i) => (7 * i) % 100);
      assert(Number.isFinite((await evaluate(opened, ids, { context: 20 })).perplexity));
      return await modelBytes(directory);
    };
    const [dense, head, both] = [await size({}), await size({ head: 8 }), await size({ embedding: 4, head: 8 })];
    assert(both < head && head < dense, `${dense} ${head} ${both}`);
    const tied = { ...model, tiedHead: true, head: model.embedding };
    assertThrows(() => tableBits(tied, { head: 8 }), TypeError, "they are one table in this model");
    assertEquals([...tableBits(tied, { embedding: 8, head: 8 })], [[model.embedding, 8]]);
    assertThrows(() => tableBits({ ...model, hiddenSize: 72 }, { embedding: 4 }), RangeError, "72 columns");
    await assertRejects(
      () => Promise.resolve().then(() => tableBytes("w", [3, 20], 8, 4)),
      RangeError,
      "leave it dense",
    );
  }));

Deno.test("roundGroups() keeps zero groups and the entry of largest magnitude exactly", () => {
  const { codes, scales } = roundGroups(Float32Array.of(0, 0, 0, 0, -3, 1, 2, 2.9), 4, 8);
  assertEquals([...codes.subarray(0, 4)], [128, 128, 128, 128]);
  assertEquals([codes[4], scales[1] * (codes[4] - 128)], [0, -3]);
});

Deno.test("plan counts --embedding in --size, and export takes it from a finished checkpoint", () =>
  withFolder(async (folder) => {
    const plan = async (...flags: string[]) => {
      const { code, out } = await dbf("plan", "tests/fixtures/tiny-llama", "--json", ...flags);
      assertEquals(code, 0);
      return JSON.parse(out) as { exportBytes: { f32: number }; signBitsPerWeight: number };
    };
    const dense = await plan("--bits", "2"), small = await plan("--bits", "2", "--embedding", "8");
    assertLess(small.exportBytes.f32, dense.exportBytes.f32);
    // The bytes saved go to the layers.
    const size = String(dense.exportBytes.f32);
    assertLess(
      (await plan("--size", size)).signBitsPerWeight + 0.2,
      (await plan("--size", size, "--embedding", "8")).signBitsPerWeight,
    );
    const { code } = await dbf("export", "tests/fixtures/tiny-llama", `${folder}/out`, "--embedding", "4");
    assertEquals(code, 0);
    assertStringIncludes(await Deno.readTextFile(`${folder}/out/README.md`), "| bits of the embedding | 4 |");
  }));
