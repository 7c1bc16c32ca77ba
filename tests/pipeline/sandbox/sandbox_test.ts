/** Third-party stages in workers without permissions, through the real code path: recipe, plugin, compress. */
import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { create, toBinary } from "@bufbuild/protobuf";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { readJournal } from "../../../pipeline/artefact/journal.ts";
import { openArtefact } from "../../../pipeline/artefact/reader.ts";
import { openCheckpoint } from "../../../pipeline/checkpoint/open.ts";
import { compress } from "../../../pipeline/compress.ts";
import { ModelProtoSchema, TensorProto_DataLocation } from "../../../pipeline/graph/onnx_pb.ts";
import { loadPlugins } from "../../../pipeline/recipe/plugin_loader.ts";
import type { RecipeInput } from "../../../pipeline/recipe/schema.ts";
import { refuseExternalData } from "../../../pipeline/sandbox/runtime_host.ts";
import type { DbfEvent } from "../../../pipeline/stream/events.ts";
import { unpackFactors } from "../../../plugins/packing/unpack.ts";
import { fakeStages, snapshot } from "../fake_stages.ts";

const MODEL = "tests/fixtures/architectures/llama";
const PLUGINS = new URL("./plugins.ts", import.meta.url).pathname;

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "dbf-sandbox-" });
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function run(out: string, more: Partial<RecipeInput>, onEvent?: (event: DbfEvent) => void) {
  await using runtime = await openRuntime({ threads: 1 });
  return await compress({
    model: MODEL,
    out,
    bits: 1,
    plugins: [PLUGINS],
    pluginSandbox: true,
    ...more,
    stages: { factorization: "boxed", target: "listing", ...more.stages },
  }, { runtime, plugins: fakeStages, onEvent });
}

Deno.test("Sandboxed stages of four kinds read weights, run graphs, and give the bytes that they give unboxed", () =>
  withFolder(async (folder) => {
    const stages = {
      importance: "boxed-norms",
      allocation: { use: "boxed-ranks", options: { rank: 5 } },
      reconstruction: ["boxed-block"],
    };
    const progress = new Set<string>();
    await run(`${folder}/boxed`, { stages }, (event) => {
      if (event.type === "stage-progress" && event.stage === "boxed") progress.add(event.subject);
    });
    await run(`${folder}/open`, { stages, pluginSandbox: false });
    const files = await snapshot(`${folder}/boxed`);
    assertEquals(files, await snapshot(`${folder}/open`));
    using artefact = await openArtefact(`${folder}/boxed`);
    const layers = [...artefact.entries.values()].filter(({ kind }) => kind === "dbf");
    assertEquals(progress, new Set(layers.map(({ name }) => name)));
    const { name, shape } = layers[0];
    const factors = unpackFactors(name, shape, await artefact.layer(name));
    assert(factors.kind === "dbf");
    assertEquals(factors.rank, 5);
    assert(factors.b.some((scale) => scale !== 0));
  }));

Deno.test("Sandboxed packing and distillation give the bytes that they give unboxed, layer by layer and again", () =>
  withFolder(async (folder) => {
    const tokens = `${folder}/tokens.json`;
    await Deno.writeTextFile(tokens, JSON.stringify(Array.from({ length: 64 }, (_, index) => index % 50)));
    const more = {
      calibration: { source: tokens, length: 16, sequences: 3 },
      stages: {
        importance: "boxed-norms",
        factorization: "fake",
        packing: "boxed-words",
        distillation: "boxed-scales",
      },
    };
    const ends: unknown[] = [];
    const progress: string[] = [];
    const report = await run(`${folder}/boxed`, more, (event) => {
      if (event.type === "stage-end" && event.stage === "boxed-scales") ends.push(event.detail);
      if (event.type === "stage-progress" && event.stage === "boxed-scales") progress.push(event.subject);
    });
    await run(`${folder}/open`, { ...more, pluginSandbox: false });
    assertEquals(await snapshot(`${folder}/boxed`), await snapshot(`${folder}/open`));
    using artefact = await openArtefact(`${folder}/boxed`);
    const layers = [...artefact.entries.values()].filter(({ kind }) => kind === "dbf");
    const second = report.layers.flatMap(({ name }, index) => index % 2 === 0 ? [name] : []);
    assertEquals(layers.length, report.layers.length);
    assertEquals(layers.filter(({ generation }) => generation === 1).map(({ name }) => name).sort(), second.toSorted());
    assertEquals(progress, second);
    const [{ loss }] = ends as { loss: number }[];
    assertEquals(loss, 3 + layers.length / 1000);
    for (const { name, shape, generation } of layers) {
      const packed = await artefact.layer(name);
      assertEquals(packed.attributes.note, `boxed ${name}`);
      const factors = unpackFactors(name, shape, packed);
      assert(factors.kind === "dbf");
      using checkpoint = await openCheckpoint(MODEL);
      const first = await checkpoint.tensor(name).readRows(0, 1);
      assertEquals(factors.b, generation === 1 ? first.map((value) => 2 * value) : first);
    }
  }));

Deno.test("Sandboxed packing and distillation reach nothing, and what they do wrong is named", () =>
  withFolder(async (folder) => {
    const attempt = (name: string, stages: Partial<RecipeInput["stages"]>) =>
      run(`${folder}/${name}`, { stages: { factorization: "fake", ...stages }, blocks: [0, 0] });
    const boxed = (use: string, mode: string) => ({ use, options: { mode } });
    await attempt("reach", {
      packing: boxed("boxed-words", "escape"),
      distillation: boxed("boxed-scales", "escape"),
    });
    const wrong = await assertRejects(() => attempt("wrong", { packing: boxed("boxed-words", "wrong") }), TypeError);
    assertStringIncludes(wrong.message, "as packed by boxed-words");
    assertStringIncludes(wrong.message, "model.layers.0.self_attn.q_proj.weight");
    await assertRejects(
      () => attempt("stranger", { distillation: boxed("boxed-scales", "stranger") }),
      RangeError,
      '"model.norm.weight"',
    );
    // What it had committed before it failed is no generation of the artefact's layers.
    await assertRejects(() => attempt("throw", { distillation: boxed("boxed-scales", "throw") }), RangeError, "told");
    const { lines } = await readJournal(`${folder}/throw/journal.jsonl`);
    const commits = lines.flatMap((line) => line.type === "commit" ? [line.generation] : []);
    assertEquals(commits, commits.map(() => 0));
    assert(commits.length > 0);
  }));

Deno.test("A sandboxed allocation learns what layers cost while it runs, and gives the budget's own error", () =>
  withFolder(async (folder) => {
    const stages = { allocation: { use: "boxed-ranks", options: { rank: 5000 } } };
    const boxed = await assertRejects(() => run(`${folder}/boxed`, { stages }), RangeError, "rank 5000 is asked for");
    const open = await assertRejects(() => run(`${folder}/open`, { stages, pluginSandbox: false }), RangeError);
    assertEquals(boxed.message, open.message);
  }));

Deno.test("A sandboxed stage can read, write, start, load and reach nothing", () =>
  withFolder(async (folder) => {
    const stages = { factorization: { use: "boxed", options: { mode: "escape" } } };
    await run(`${folder}/out`, { stages, blocks: [0, 0] });
    // The same stage finds what is open where it is not sandboxed.
    const error = await assertRejects(() => run(`${folder}/open`, { stages, blocks: [0, 0], pluginSandbox: false }));
    assertStringIncludes((error as Error).message, "could read, write, env");
    await Deno.remove("/tmp/dbf-sandbox-escape");
  }));

for (
  const [mode, pluginSandbox, message] of [
    ["hang", true, 'the plugin\'s factorization "boxed" took longer than 0.5 s'],
    ["await", false, "took longer than 0.5 s"],
    ["throw", true, "told to fail"],
  ] as const
) {
  const where = pluginSandbox ? "a sandboxed plugin" : "a plugin";
  Deno.test(`compress() names layer and way out when ${where} is told to ${mode}, and keeps what was committed`, () =>
    withFolder(async (folder) => {
      const out = `${folder}/out`;
      const stages = { factorization: { use: "boxed", options: { mode } } };
      const error = await assertRejects(
        () => run(out, { stages, pluginSandbox, pluginDeadline: 0.5 }),
        mode === "throw" ? RangeError : Error,
        message,
      );
      assertStringIncludes(error.message, "model.layers.0.self_attn.q_proj.weight");
      assertEquals((await readJournal(`${out}/journal.jsonl`)).lines.filter(({ type }) => type === "commit"), []);
    }));
}

Deno.test("loadPlugins() with a sandbox refuses wrong options, targets, and a module that reads while it loads", () =>
  withFolder(async (folder) => {
    const write = async (name: string, text: string) => {
      await Deno.writeTextFile(`${folder}/${name}`, text);
      return `${folder}/${name}`;
    };
    const wrong = { factorization: { use: "boxed", options: { mode: "bad" } } };
    await assertRejects(() => run(`${folder}/out`, { stages: wrong }), TypeError, "mode");
    const load = (path: string) => loadPlugins([path], { sandbox: true });
    const fields = 'scope: "model", version: "1.0.0", description: "d", options: { "~standard": {} }';
    const target = await write(
      "target.js",
      `export default { kind: "target", name: "t", ${fields}, estimate: () => ({ peakBytes: 0 }), run() {} }`,
    );
    await assertRejects(() => load(target), TypeError, "a target writes files");
    await assertRejects(
      async () => load(await write("peek.js", "Deno.readTextFileSync('/etc/hostname')")),
      Error,
      "read",
    );
  }));

Deno.test("refuseExternalData() refuses graphs that would read files, also inside attributes", () => {
  const external = {
    name: "w",
    dims: [1n],
    dataLocation: TensorProto_DataLocation.EXTERNAL,
    externalData: [{ key: "location", value: "../secret" }],
  };
  const bytes = (graph: Record<string, unknown>) => toBinary(ModelProtoSchema, create(ModelProtoSchema, { graph }));
  refuseExternalData(bytes({ name: "fine", initializer: [{ name: "w", dims: [1n], rawData: new Uint8Array(4) }] }));
  for (
    const graph of [
      { initializer: [external] },
      { node: [{ opType: "Constant", attribute: [{ name: "value", t: external }] }] },
      { node: [{ opType: "If", attribute: [{ name: "then_branch", g: { initializer: [external] } }] }] },
    ]
  ) assertThrows(() => refuseExternalData(bytes(graph)), TypeError, "in a file");
  // Field 15 of a graph (sparse weights) is not among what dbf writes.
  const unknown = Uint8Array.of(0x3a, 4, 0x7a, 2, 0x0a, 0);
  assertThrows(() => refuseExternalData(unknown), TypeError, "does not know");
});
