import { assert, assertEquals, assertNotEquals, assertRejects, assertStringIncludes } from "@std/assert";
import * as v from "valibot";
import { openArtefact } from "../../pipeline/artefact/reader.ts";
import { compress } from "../../pipeline/compress.ts";
import { planRecipe } from "../../pipeline/plan_recipe.ts";
import { parseRecipe } from "../../pipeline/recipe/parse.ts";
import type { RecipeInput } from "../../pipeline/recipe/schema.ts";
import type { CompressOptions } from "../../pipeline/start_run.ts";
import type { DbfEvent } from "../../pipeline/stream/events.ts";
import { defineStage, type LayerJob } from "../../pipeline/stream/stage.ts";
import { fakeRuntime, fakeStages, snapshot } from "./fake_stages.ts";

const MODEL = "tests/fixtures/architectures/llama";

/** A run of three kinds of layers and a dense one, made from weights alone. */
const first = (out: string): RecipeInput => ({
  model: MODEL,
  out,
  bits: 1,
  keep: ["0\\.mlp\\.down_proj"],
  methods: { "v_proj": "sign", "o_proj": "round-to-nearest" },
  threads: 1,
  stages: { factorization: { use: "dbf-admm", options: { iterations: 8, sweeps: 1 } } },
});

/** Goes on from `from` with `text`. */
const second = (from: string, out: string, text: string, options: Record<string, unknown>): RecipeInput => ({
  model: MODEL,
  out,
  from,
  threads: 1,
  calibration: { source: text, length: 12, sequences: 9 },
  stages: { distillation: { use: "logits", options: { batchTokens: 36, epochs: 10, ...options } } },
});

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "dbf-from-" });
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Kind, attributes and hashes of a run's layers, by name; files are of another generation after a distillation. */
async function layersOf(out: string) {
  using artefact = await openArtefact(out);
  return Object.fromEntries(
    artefact.manifest.entries.map(({ name, kind, shape, attributes, sha256 }) => [
      name,
      { kind, shape, attributes, sha256 },
    ]),
  );
}

Deno.test("a run that goes on from a finished one takes its layers, of all kinds, and distils them", () =>
  withFolder(async (folder) => {
    const text = `${folder}/text.json`;
    await Deno.writeTextFile(text, JSON.stringify(Array.from({ length: 400 }, (_, i) => (i * i * 7 + 3 * i) % 251)));
    await compress(first(`${folder}/a`));
    const before = await layersOf(`${folder}/a`);

    // rates of zero: nothing is lost on the way through packed layers, latents and back
    const still = second(`${folder}/a`, `${folder}/still`, text, { epochs: 1, signRate: 0, scaleRate: 0 });
    const plan = await planRecipe(parseRecipe(still));
    await compress(still);
    assertEquals(await layersOf(`${folder}/still`), before);
    assertEquals(plan.allocation, { stage: "earlier-run", source: "from" });
    assertEquals(plan.layers.length, 13);
    for (const { name, rank, kind } of plan.layers) {
      assertEquals(before[name].kind, kind);
      assertEquals(before[name].attributes.rank ?? 0, rank);
    }

    const events: DbfEvent[] = [];
    const report = await compress(second(`${folder}/a`, `${folder}/b`, text, {}), {
      onEvent: (event) => events.push(event),
    });
    const losses = events.flatMap((event) =>
      event.type === "stage-progress" && event.stage === "logits" ? [event.detail!.loss] : []
    );
    assert(losses.at(-1)! < 0.9 * losses[0], `${losses[0]} to ${losses.at(-1)}`);
    assertEquals(report.layers.length, 13);
    const after = await layersOf(`${folder}/b`);
    for (const [name, { kind, sha256 }] of Object.entries(before)) {
      assertEquals(after[name].kind, kind);
      if (kind === "dense") assertEquals(after[name].sha256, sha256);
      else assertNotEquals(after[name].sha256, sha256, name);
    }

    // and from the second a third
    await compress(second(`${folder}/b`, `${folder}/c`, text, { epochs: 1, signRate: 0, scaleRate: 0 }));
    assertEquals(await layersOf(`${folder}/c`), after);
  }));

const seen: LayerJob[] = [];

/** A distillation that commits nothing, or fails. */
const look = defineStage({
  kind: "distillation",
  scope: "model",
  name: "look",
  version: "1.0.0",
  description: "Looks at the layers.",
  options: v.strictObject({ fail: v.optional(v.boolean(), false) }),
  estimate: () => ({ peakBytes: 1000 }),
  run({ jobs, importance }, { fail }) {
    if (fail) throw new Error("told to fail");
    assertEquals(importance.size, 0);
    seen.push(...jobs);
    return Promise.resolve({ loss: 1, flipped: 0 });
  },
});

const TINY = "tests/fixtures/tiny-llama";
const faked = (recipe: Partial<RecipeInput> & { out: string }, options: CompressOptions = {}) =>
  compress({ model: TINY, ...recipe, stages: { target: "listing", ...recipe.stages } }, {
    runtime: fakeRuntime,
    ...options,
    plugins: [...fakeStages, look],
  });
const made = { stages: { factorization: "fake" } };
const looked = { stages: { distillation: "look" } };

Deno.test("a run that goes on has bits and blocks from there, is resumed after a crash, and notices another start", () =>
  withFolder(async (folder) => {
    const from = `${folder}/a`, out = `${folder}/b`;
    await faked({ out: from, bits: 1.25, blocks: [1, 2], keep: ["k_proj"], ...made });
    const before = await layersOf(from);
    let commits = 0;
    const crash = (step: string) => {
      if (step === "journalled" && commits++ === 4) throw new Error("power cut");
    };
    await assertRejects(() => faked({ out, from, ...looked }, { onCommitStep: crash }), Error, "power cut");
    const report = await faked({ out, from, ...looked });
    assertEquals(report.resumedLayers, 5);
    assertEquals(
      seen.map(({ name, rank }) => [name, rank]).sort(),
      Object.entries(before)
        .filter(([, { kind }]) => kind !== "dense").map(([name, { attributes }]) => [name, attributes.rank]).sort(),
    );
    assertEquals(new Set(seen.map(({ block }) => block)), new Set([1, 2]));
    assertEquals(await layersOf(out), before);
    await faked({ out: `${folder}/whole`, from, ...looked });
    const { "journal.jsonl": _, ...files } = await snapshot(out);
    const { "journal.jsonl": __, ...whole } = await snapshot(`${folder}/whole`);
    assertEquals(files, whole);

    // another run in the folder that it began with
    await assertRejects(
      () => faked({ out: `${folder}/d`, from, stages: { distillation: { use: "look", options: { fail: true } } } }),
      Error,
      "told to fail",
    );
    await faked({ out: from, bits: 1, blocks: [1, 2], keep: ["k_proj"], ...made }, { restart: true });
    const error = await assertRejects(() => faked({ out: `${folder}/d`, from, ...looked }), Error);
    assertStringIncludes(error.message, "stages.factorization.options.entries was");
  }));

Deno.test("a run that goes on refuses what it cannot begin with", () =>
  withFolder(async (folder) => {
    const from = `${folder}/a`, out = `${folder}/b`;
    await assertRejects(() => faked({ out, from, ...looked }), Error, `Cannot open ${from} as an artefact`);
    await faked({ out: from, blocks: [0, 0], ...made });
    await assertRejects(() => faked({ out: from, from, ...looked }), Error, "in itself");
    await assertRejects(() => faked({ out, from, model: MODEL, ...looked }), Error, "checkpoint that it was made from");

    const copy = `${folder}/model`;
    await Deno.mkdir(copy);
    for (const name of ["config.json", "model.safetensors"]) await Deno.copyFile(`${TINY}/${name}`, `${copy}/${name}`);
    {
      using file = await Deno.open(`${copy}/model.safetensors`, { read: true, write: true });
      // half of the file, so that every block has changed weights
      const { size } = await file.stat();
      await file.seek(Math.floor(size / 3), Deno.SeekMode.Start);
      await file.write(new Uint8Array(Math.floor(size / 2)).fill(1));
    }
    const other = await assertRejects(() => faked({ out, from, model: copy, ...looked }), Error);
    assertStringIncludes(other.message, "checkpoint content of");

    await Deno.remove(`${from}/journal.jsonl`);
    await assertRejects(() => faked({ out: `${folder}/c`, from, ...looked }), Error, "as it has no journal.jsonl");
  }));
