import { assertAlmostEquals, assertEquals, assertLess, assertRejects, assertThrows } from "@std/assert";
import * as ort from "onnxruntime-node";
import { LAYOUT_VERSION, packedBytes, packedShape, packSigns } from "../../../../kernels/layout.ts";
import { describeArtefact } from "../../../../pipeline/artefact/describe.ts";
import { viewCheckpoint } from "../../../../pipeline/artefact/checkpoint_view.ts";
import type { ArtefactEntry, ArtefactReader } from "../../../../pipeline/artefact/types.ts";
import { openCheckpoint } from "../../../../pipeline/checkpoint/open.ts";
import { exportModel } from "../../../../pipeline/export/export_model.ts";
import { decodeModel } from "../../../../pipeline/graph/decode.ts";
import { writeModel } from "../../../../pipeline/graph/external_data.ts";
import { createGraph } from "../../../../pipeline/graph/graph.ts";
import { cast } from "../../../../pipeline/graph/ops.ts";
import { buildDecoder } from "../../../../pipeline/model/decoder_graph.ts";
import type { PackedLayer, PackedTensor } from "../../../../pipeline/stream/stage.ts";
import { balanceScales, dbfLayer, type Scales } from "../../../../plugins/target/onnx/dbf_layer.ts";
import { onnxTarget } from "../../../../plugins/target/onnx/stage.ts";
import { streamedWeights } from "../../../../plugins/target/onnx/weights.ts";
import { emptyCache, int64, loadDecoder, step } from "../../../pipeline/export/decoder_runner.ts";
import {
  ARCHITECTURES,
  compareGolden,
  fixture,
  readGolden,
  relativeDifference,
} from "../../../pipeline/model/golden.ts";

/** Numbers in [0, 1) from a seed (mulberry32). */
function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6D2B79F5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Layer {
  readonly packed: PackedLayer;
  /** The matrix that it stands for, f64 row-major (rows, cols). */
  readonly dense: Float64Array;
}

/** A random double-binary layer with weights of about 0.05. */
function randomLayer(rows: number, cols: number, rank: number, seed: number): Layer {
  const next = random(seed);
  const signs = (n: number, k: number) => Float64Array.from({ length: n * k }, () => (next() < 0.5 ? -1 : 1));
  const A = signs(rows, rank), B = signs(rank, cols);
  const scale = (length: number, size: number) => Float32Array.from({ length }, () => size * (0.5 + next()));
  const scales: Scales = {
    a: scale(rows, 3),
    mid: scale(rank, 0.05 / 3 / 0.01 / Math.sqrt(rank)),
    b: scale(cols, 0.01),
  };
  const dense = new Float64Array(rows * cols);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      let sum = 0;
      for (let k = 0; k < rank; k++) sum += A[row * rank + k] * scales.mid[k] * B[k * cols + col];
      dense[row * cols + col] = scales.a[row] * sum * scales.b[col];
    }
  }
  const pack = (values: Float64Array, n: number, k: number): PackedTensor => {
    const width = Math.ceil(k / 32), words = new Uint32Array(n * width);
    values.forEach((value, at) => {
      const row = Math.floor(at / k), col = at % k;
      if (value > 0) words[row * width + (col >> 5)] |= 1 << (col & 31);
    });
    return { dtype: "U8", shape: packedShape(n, k), data: packSigns({ rows: n, cols: k, words }) };
  };
  const floats = (values: Float32Array): PackedTensor => ({
    dtype: "F32",
    shape: [values.length],
    data: new Uint8Array(values.slice().buffer),
  });
  return {
    dense,
    packed: {
      kind: "dbf",
      attributes: { rank, layout: LAYOUT_VERSION },
      tensors: {
        A: pack(A, rows, rank),
        B: pack(B, rank, cols),
        a: floats(scales.a),
        mid: floats(scales.mid),
        b: floats(scales.b),
      },
    },
  };
}

/** A source whose entries in `layers` are double-binary, or dense with the same numbers when `dense` is set. */
function withLayers(source: ArtefactReader, layers: ReadonlyMap<string, Layer>, dense: boolean): ArtefactReader {
  const entries = new Map(source.entries);
  for (const [name, { packed }] of layers) {
    const entry = entries.get(name)!;
    if (!dense) entries.set(name, { ...entry, kind: "dbf", attributes: packed.attributes });
  }
  return {
    ...source,
    entries,
    layer: (name) => Promise.resolve(layers.get(name)!.packed),
    readRows(name, start, end) {
      const layer = layers.get(name);
      if (layer === undefined) return source.readRows(name, start, end);
      const cols = source.entries.get(name)!.shape[1];
      return Promise.resolve(Float32Array.from(layer.dense.subarray(start * cols, end * cols)));
    },
  };
}

for (const [dtype, tolerance] of [["float32", 1e-5], ["float16", 4e-3]] as const) {
  Deno.test(`dbfLayer() in ${dtype} equals an f64 twin to ${tolerance} of its largest output, at awkward sizes`, async () => {
    for (const [rows, cols, rank] of [[1, 1, 1], [7, 33, 5], [48, 64, 40], [65, 31, 100]]) {
      const layer = randomLayer(rows, cols, rank, rows + cols);
      const name = "layer.weight", shape = [rows, cols];
      const entry: ArtefactEntry = {
        name,
        kind: "dbf",
        shape,
        generation: 1,
        attributes: layer.packed.attributes,
        bytes: 0,
      };
      const source: ArtefactReader = {
        directory: "memory",
        config: {},
        entries: new Map([[name, entry]]),
        companions: [],
        layer: () => Promise.resolve(layer.packed),
        readRows: () => Promise.reject(new Error("not dense")),
        [Symbol.dispose]: () => undefined,
      };
      const g = createGraph("layer");
      const x = cast(g, g.input("x", "float32", ["batch", "sequence", cols]), dtype);
      const y = dbfLayer(g, { linear: { role: "q_proj", weight: name, rows, cols }, entry, source, dtype }, x);
      g.output("y", cast(g, y, "float32"));
      const directory = await Deno.makeTempDir();
      try {
        await writeModel(g, directory, "model.onnx");
        const session = await loadDecoder(directory);
        const next = random(5), inputs = Float32Array.from({ length: 6 * cols }, () => 4 * next() - 2);
        const result = (await session.run({ x: new ort.Tensor("float32", inputs, [2, 3, cols]) })).y;
        await session.release();
        const expected = Float64Array.from({ length: 6 * rows }, (_, at) => {
          const token = Math.floor(at / rows), row = at % rows;
          let sum = 0;
          for (let col = 0; col < cols; col++) sum += layer.dense[row * cols + col] * inputs[token * cols + col];
          return sum;
        });
        assertEquals(result.dims, [2, 3, rows]);
        assertLess(relativeDifference(result.data as Float32Array, expected), tolerance);
      } finally {
        await Deno.remove(directory, { recursive: true });
      }
    }
  });
}

Deno.test("balanceScales() changes scales by powers of two whose product is one", () => {
  const next = random(3);
  const scale = (length: number, size: number) => Float32Array.from({ length }, () => size * (0.5 + next()));
  const scales = { a: scale(50, 300), mid: scale(64, 1e-9), b: scale(30, 7000) };
  const balanced = balanceScales(scales);
  for (let i = 0; i < 30; i++) {
    const before = scales.a[i] * scales.mid[i] * scales.b[i];
    assertEquals(balanced.a[i] * balanced.mid[i] * balanced.b[i], before);
    assertAlmostEquals(balanced.b[i], 1, 1);
  }
});

Deno.test("a model with binary layers gives the logits of its dense twin and holds packed signs only", async () => {
  const parent = await Deno.makeTempDir();
  try {
    using checkpoint = viewCheckpoint(await openCheckpoint(fixture("llama")));
    const model = await describeArtefact(checkpoint);
    const layers = new Map<string, Layer>();
    for (const { linears } of model.blocks) {
      for (const { weight, rows, cols } of linears) layers.set(weight, randomLayer(rows, cols, 40, layers.size));
    }
    const { input_ids: ids } = readGolden("llama");
    const logits: Float32Array[] = [];
    for (const dense of [false, true]) {
      const directory = `${parent}/${dense}`;
      await exportModel({ source: withLayers(checkpoint, layers, dense), model, directory, target: onnxTarget });
      const session = await loadDecoder(directory);
      const result = await step(session, [ids], [ids.map(() => 1)], emptyCache(session, 1));
      logits.push(result.logits.data as Float32Array);
      await session.release();
    }
    assertLess(relativeDifference(logits[0], logits[1]), 1e-4);

    const file = decodeModel(await Deno.readFile(`${parent}/false/model.onnx`));
    const nodes = file.graph!.node.filter(({ domain }) => domain === "ai.dbf");
    assertEquals(nodes.length, 2 * layers.size);
    assertEquals(file.functions.map(({ domain, name }) => `${domain}::${name}`), ["ai.dbf::BinaryMatMul"]);
    const weight = model.blocks[1].linears[0];
    const stored = file.graph!.initializer.find(({ name }) => name === `${weight.weight}.B`)!;
    assertEquals(stored.dims.map(Number), packedShape(40, weight.cols));
    assertEquals(stored.rawData.length, packedBytes(40, weight.cols)); // below 1 KiB, so inside the model file
    const card = await Deno.readTextFile(`${parent}/false/README.md`);
    assertEquals(card.includes(`${layers.size} dbf`) && card.includes("bits a weight"), true);
  } finally {
    await Deno.remove(parent, { recursive: true });
  }
});

// Half precision keeps 11 bits and these models have random weights: half a percent of the largest logit, 0.002 nats.
for (const name of [...ARCHITECTURES, "tiny-llama"]) {
  Deno.test(`buildDecoder() of ${name} in f16 stays within 0.5 % of the golden logits' scale`, async () => {
    const directory = await Deno.makeTempDir();
    try {
      using source = viewCheckpoint(await openCheckpoint(fixture(name)));
      const model = await describeArtefact(source);
      const graph = buildDecoder(model, streamedWeights(source, model, "float16"), { dtype: "f16", cache: false });
      const { dataBytes } = await writeModel(graph, directory, "model.onnx");
      const parameters = [...source.entries.values()].reduce(
        (sum, { shape }) => sum + shape.reduce((a, b) => a * b),
        0,
      );
      assertLess(dataBytes, 2 * parameters * 1.1 + 4096 * source.entries.size);
      const session = await loadDecoder(directory);
      const golden = readGolden(name), ids = golden.input_ids;
      const { logits } = await session.run({
        input_ids: int64(ids, 1),
        attention_mask: int64(ids.map(() => 1), 1),
        position_ids: int64(ids.map((_, index) => index), 1),
      });
      assertEquals(logits.type, "float32");
      const difference = compareGolden(golden, logits.data as Float32Array);
      assertLess(difference.logits, 5e-3);
      assertLess(difference.nll, 2e-3);
      await session.release();
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  });
}

Deno.test("the onnx target refuses layers of unknown kinds, other layouts and missing tensors by name", async () => {
  using source = viewCheckpoint(await openCheckpoint(fixture("llama")));
  const model = await describeArtefact(source);
  const name = model.blocks[0].linears[0].weight;
  const change = (entry: Partial<ArtefactEntry> | undefined): ArtefactReader => {
    const entries = new Map(source.entries);
    if (entry === undefined) entries.delete(name);
    else entries.set(name, { ...entries.get(name)!, ...entry });
    return { ...source, entries };
  };
  const build = (entry: Partial<ArtefactEntry> | undefined) =>
    buildDecoder(model, streamedWeights(change(entry), model, "float32"));
  assertThrows(() => build({ kind: "mystery" }), TypeError, `"${name}" of kind mystery`);
  assertThrows(() => build({ kind: "dbf", attributes: { rank: 8, layout: 99 } }), RangeError, "sign layout 99");
  assertThrows(() => build({ kind: "dbf", attributes: { layout: LAYOUT_VERSION } }), RangeError, "rank");
  assertThrows(() => build({ shape: [3, 3] }), RangeError, "current shape is [3, 3]");
  assertThrows(() => build(undefined), RangeError, `no tensor "${name}"`);

  const parent = await Deno.makeTempDir();
  try {
    const wrong = { ...change({ kind: "dbf", attributes: { rank: 8, layout: LAYOUT_VERSION } }) };
    const damaged = { ...wrong, layer: () => Promise.resolve(randomLayer(8, 8, 8, 1).packed) };
    const exporting = exportModel({ source: damaged, model, directory: `${parent}/x`, target: onnxTarget });
    await assertRejects(() => exporting, RangeError, "elements, not");
    assertEquals([...Deno.readDirSync(parent)], []);
  } finally {
    await Deno.remove(parent, { recursive: true });
  }
});
