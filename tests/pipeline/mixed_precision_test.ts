import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { openRuntime } from "../../kernels/runtime/open.ts";
import { openArtefact } from "../../pipeline/artefact/reader.ts";
import { openCheckpoint } from "../../pipeline/checkpoint/open.ts";
import { compress } from "../../pipeline/compress.ts";
import { evaluate } from "../../pipeline/evaluate/evaluate.ts";
import { openModel } from "../../pipeline/evaluate/open_model.ts";
import { generate } from "../../pipeline/evaluate/generate.ts";
import { planRun } from "../../pipeline/plan/plan.ts";
import { parseRecipe } from "../../pipeline/recipe/parse.ts";
import { resolveStages, storageOfRun } from "../../pipeline/recipe/resolve.ts";
import type { RecipeInput } from "../../pipeline/recipe/schema.ts";
import { selectLayers } from "../../pipeline/start_run.ts";
import { builtinStages } from "../../plugins/mod.ts";
import { dbf } from "./cli/run.ts";
import { snapshot } from "./fake_stages.ts";

const MODEL = "tests/fixtures/tiny-llama";

/** v and down at 4 and 8 bits, everything else double-binary at 1 bit, quickly. */
const mixed = (out: string, more: Partial<RecipeInput> = {}): RecipeInput => ({
  model: MODEL,
  out,
  bits: 1,
  blocks: [0, 1],
  methods: {
    "v_proj|down_proj": { use: "hqq", options: { bits: 4, group: 32 } },
    "layers\\.1\\..*down_proj": { use: "round-to-nearest", options: { bits: 8, group: 64, symmetric: true } },
    "k_proj": "sign",
  },
  stages: { factorization: { use: "dbf-admm", options: { iterations: 2, sweeps: 0 } } },
  ...more,
});

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "dbf-mixed-" });
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("a recipe's methods choose each layer's factorization; plan, artefact, export, evaluate and generate agree", () =>
  withFolder(async (folder) => {
    await using runtime = await openRuntime({ threads: 1 });
    const out = `${folder}/out`, recipe = parseRecipe(mixed(out));
    const report = await compress(recipe, { runtime });
    const kinds = new Map(report.layers.map(({ name, kind, rank }) => [name, `${kind} ${rank > 0}`]));
    assertEquals(kinds.get("model.layers.0.self_attn.v_proj.weight"), "nbits false");
    assertEquals(kinds.get("model.layers.1.self_attn.k_proj.weight"), "sign false");
    assertEquals(kinds.get("model.layers.1.mlp.up_proj.weight"), "dbf true");
    using artefact = await openArtefact(out);
    const bitsOf = (name: string) => artefact.entries.get(name)!.attributes;
    assertEquals(bitsOf("model.layers.0.mlp.down_proj.weight").bits, 4);
    // Of several patterns that match, the last one counts.
    const last = bitsOf("model.layers.1.mlp.down_proj.weight");
    assertEquals([last.bits, last.group, last.zeros], [8, 64, false]);

    const shown = await dbf("inspect", out);
    for (const part of ["nbits 4/32", "nbits 8/64", "sign", "dbf"]) assertStringIncludes(shown.out, part);
    const stages = resolveStages(recipe, builtinStages);
    using checkpoint = await openCheckpoint(MODEL);
    const chosen = selectLayers(recipe, checkpoint, stages);
    const plan = planRun({ inventory: chosen, bitsPerWeight: 1, storageOf: storageOfRun(stages) });
    let written = 0;
    for await (const { name } of Deno.readDir(`${out}/onnx`)) {
      if (name.startsWith("model.onnx")) written += (await Deno.stat(`${out}/onnx/${name}`)).size;
    }
    assert(
      plan.exportBytes.f32 >= written && plan.exportBytes.f32 - written < 140_000,
      `${plan.exportBytes.f32} ${written}`,
    );
    assertEquals(report.bitsPerWeight, plan.signBitsPerWeight);
    assertEquals(report.effectiveBitsPerWeight, plan.effectiveBitsPerWeight);

    await using model = await openModel(out, runtime);
    const { perplexity } = await evaluate(model, Int32Array.from({ length: 256 }, (_, i) => (37 * i) % 900), {
      context: 64,
    });
    assert(Number.isFinite(perplexity));
    const tokens = await Array.fromAsync(generate(model, [1, 5, 9], { maxTokens: 4, temperature: 0, ignoreEos: true }));
    assertEquals(tokens.length, 4);
  }));

Deno.test("a mixed run resumes to the same bytes, and names a method that differs", () =>
  withFolder(async (folder) => {
    await using runtime = await openRuntime({ threads: 1 });
    const once = { blocks: [0, 0] as const };
    await compress(mixed(`${folder}/whole`, once), { runtime });
    let commits = 0;
    const crash = compress(mixed(`${folder}/out`, once), {
      runtime,
      onCommitStep: (step) => {
        if (step === "journalled" && ++commits === 4) throw new Error("power cut");
      },
    });
    await assertRejects(() => crash, Error, "power cut");
    assertEquals((await compress(mixed(`${folder}/out`, once), { runtime })).resumedLayers, 4);
    const { "journal.jsonl": _, ...resumed } = await snapshot(`${folder}/out`);
    const { "journal.jsonl": __, ...whole } = await snapshot(`${folder}/whole`);
    assertEquals(resumed, whole);
    const other = mixed(`${folder}/out`, {
      ...once,
      methods: { "v_proj|down_proj": { use: "hqq", options: { bits: 3 } } },
    });
    const error = await assertRejects(() => compress(other, { runtime }), Error);
    assertStringIncludes(error.message, "stages.methods");
  }));

Deno.test("--set methods chooses factorizations on the command line; wrong ones are refused by name", async () => {
  const methods = `methods={"down_proj":{"use":"gptq","options":{"bits":4,"group":128}}}`;
  const { code, out } = await dbf(
    "plan",
    MODEL,
    "--bits",
    "1",
    "--set",
    methods,
    "--set",
    "methods.v_proj=sign",
    "--json",
  );
  assertEquals(code, 0);
  const { layers } = JSON.parse(out) as { layers: { name: string; kind: string; signBitsPerWeight: number }[] };
  const of = (part: string) =>
    layers.filter(({ name }) => name.includes(part)).map(({ kind, signBitsPerWeight }) => [kind, signBitsPerWeight]);
  assertEquals(of("0.mlp.down_proj"), [["nbits", 4]]);
  assertEquals(of("0.self_attn.v_proj"), [["sign", 1]]);
  const wrong = await dbf("plan", MODEL, "--set", `methods={"down":"gtpq"}`);
  assertEquals(wrong.code, 2);
  assertStringIncludes(wrong.err, 'did you mean "gptq"');
});
