import {
  assert,
  assertEquals,
  assertExists,
  assertLessOrEqual,
  assertNotEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import * as v from "valibot";
import { openRuntime } from "../../kernels/runtime/open.ts";
import { describeArtefact } from "../../pipeline/artefact/describe.ts";
import { openArtefact } from "../../pipeline/artefact/reader.ts";
import type { CommitStep } from "../../pipeline/artefact/writer.ts";
import { compress } from "../../pipeline/compress.ts";
import { type CompressOptions, startRun } from "../../pipeline/start_run.ts";
import { openCheckpoint } from "../../pipeline/checkpoint/open.ts";
import { planArtefact } from "../../pipeline/plan_recipe.ts";
import { parseRecipe } from "../../pipeline/recipe/parse.ts";
import type { RecipeInput } from "../../pipeline/recipe/schema.ts";
import type { DbfEvent } from "../../pipeline/stream/events.ts";
import { factorsOfKind } from "../../pipeline/stream/factors.ts";
import { defineStage } from "../../pipeline/stream/stage.ts";
import { unpackFactors } from "../../plugins/packing/unpack.ts";
import { fakeRuntime, fakeStages, snapshot } from "./fake_stages.ts";

const MODEL = "tests/fixtures/tiny-llama";
const recipe = (out: string, more: Partial<RecipeInput> = {}): RecipeInput => ({
  model: MODEL,
  out,
  bits: 1,
  blocks: [0, 1],
  ...more,
  stages: { factorization: "fake", target: "listing", ...more.stages },
});
const run = (out: string, more: Partial<RecipeInput> = {}, options: CompressOptions = {}) =>
  compress(recipe(out, more), { runtime: fakeRuntime, ...options, plugins: [...fakeStages, ...options.plugins ?? []] });

async function withFolder(body: (out: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "dbf-compress-" });
  try {
    await body(`${folder}/out`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("compress() writes an artefact that opens, with packed layers and dense tensors equal to the checkpoint's", () =>
  withFolder(async (out) => {
    const events: DbfEvent[] = [];
    const report = await run(out, {}, { onEvent: (event) => events.push(event) });
    assertEquals([report.layers.length, report.resumedLayers], [14, 0]);
    assertLessOrEqual(report.bitsPerWeight, 1);
    assertEquals(report.meanWeightedError, 0.25);
    assertEquals(events.filter(({ type }) => type === "layer-committed").length, 14);
    assertEquals(events.at(-1)?.type, "run-end");

    using artefact = await openArtefact(out);
    using checkpoint = await openCheckpoint(MODEL);
    const model = await describeArtefact(artefact);
    assertEquals(model.blocks.length, 2);
    const { rows, cols, weight } = model.blocks[1].linears[0];
    const factors = factorsOfKind(weight, unpackFactors(weight, [rows, cols], await artefact.layer(weight)), "dbf");
    assertEquals(factors.b, await checkpoint.tensor(weight).readRows(0, 1));
    assertEquals(
      await artefact.readRows(model.embedding, 3, 6),
      await checkpoint.tensor(model.embedding).readRows(3, 6),
    );
    assertEquals((await artefact.tensor(model.finalNorm)).dtype, checkpoint.tensor(model.finalNorm).dtype);
    assert(artefact.companions.some((path) => path.endsWith("/tokenizer.json")));
    await assertRejects(() => artefact.layer(model.embedding), TypeError, "dense");
    await assertRejects(() => artefact.readRows(weight, 0, 1), TypeError, "dbf");
    assertStringIncludes(await Deno.readTextFile(`${out}/listing/entries.onnx`), `${weight} dbf ${rows},${cols}`);
    assertEquals([...Deno.readDirSync(out)].map(({ name }) => name).filter((name) => /lock|work|tmp/.test(name)), []);
  }));

Deno.test("compress() gives the same bytes whatever the parallelism, and again when run again", () =>
  withFolder(async (out) => {
    await run(out);
    const first = await snapshot(out);
    const again = await run(out);
    assertEquals(again.resumedLayers, 14);
    assertEquals(await snapshot(out), first);
    await run(`${out}-4`, { parallel: 4 });
    assertEquals(await snapshot(`${out}-4`), first);
    await run(`${out}-seed`, { seed: 1 });
    assertNotEquals((await snapshot(`${out}-seed`))["manifest.json"], first["manifest.json"]);
  }));

for (const step of ["written", "renamed", "journalled"] as CommitStep[]) {
  Deno.test(`compress() resumes to the same bytes after crashes when commits were ${step}`, () =>
    withFolder(async (out) => {
      await run(`${out}-whole`);
      const whole = await snapshot(`${out}-whole`);
      let crashes = 0;
      for (const crashAt of [0, 1, 5, 7, 2]) {
        let commits = 0;
        await assertRejects(
          () =>
            run(out, {}, {
              onCommitStep: (at) => {
                if (at === step && commits++ === crashAt) throw new Error("power cut");
              },
            }),
          Error,
          "power cut",
        );
        crashes++;
        // What a real crash may leave on top: half a line, and a half-written file.
        if (crashes % 2) {
          await Deno.writeTextFile(`${out}/journal.jsonl`, '{"type":"commit","na', { append: true });
          await Deno.writeTextFile(`${out}/layers/half.g0.safetensors.tmp`, "x");
        }
      }
      const report = await run(out);
      assert(report.resumedLayers > 0);
      assertEquals(await snapshot(out), whole);
    }));
}

Deno.test("compress() names the field of the fingerprint that differs, and --restart begins anew", () =>
  withFolder(async (out) => {
    await run(out, { seed: 1 });
    const error = await assertRejects(() => run(out, { seed: 2, bits: 1.5 }), Error);
    for (const part of ["seed was 1 and is now 2", "recipe.bits was 1 and is now 1.5", "--restart"]) {
      assertStringIncludes(error.message, part);
    }
    await assertRejects(
      () => run(out, { seed: 1, stages: { factorization: { use: "fake", options: { effort: "best" } } } }),
      Error,
      'stages.factorization.options.effort was "balanced" and is now "best"',
    );
    assertEquals((await run(out, { seed: 2, bits: 1.5 }, { restart: true })).resumedLayers, 0);
  }));

Deno.test("compress() refuses to resume on a checkpoint whose content changed under equal headers", () =>
  withFolder(async (out) => {
    const copy = `${out}-model`;
    await Deno.mkdir(copy);
    for (const name of ["config.json", "model.safetensors"]) await Deno.copyFile(`${MODEL}/${name}`, `${copy}/${name}`);
    await run(out, { model: copy });
    const bytes = await Deno.readFile(`${copy}/model.safetensors`);
    for (let i = 1; i < 400; i++) bytes[bytes.length - i * (bytes.length >> 9)] ^= 1;
    await Deno.writeFile(`${copy}/model.safetensors`, bytes);
    await assertRejects(() => run(out, { model: copy }), Error, "checkpoint content of");
  }));

Deno.test("compress() stops when aborted and goes on from there", () =>
  withFolder(async (out) => {
    const controller = new AbortController();
    const error = await assertRejects(() =>
      run(out, {}, {
        signal: controller.signal,
        onEvent: (event) => {
          if (event.type === "layer-committed" && event.done === 3) {
            controller.abort(new DOMException("interrupted", "AbortError"));
          }
        },
      }), DOMException);
    assertEquals(error.name, "AbortError");
    assertEquals((await run(out)).resumedLayers, 3);
  }));

Deno.test("compress() names the layer when a plugin throws, and keeps what was committed", () =>
  withFolder(async (out) => {
    const failing = { use: "fake", options: { failOn: "layers.1.self_attn.q_proj" } };
    await assertRejects(
      () => run(out, { stages: { factorization: failing } }),
      Error,
      'Cannot finish "model.layers.1.self_attn.q_proj.weight" in fake: told to fail',
    );
    assertEquals((await run(out, { stages: { factorization: failing } }).catch(() => "failed")) as string, "failed");
  }));

Deno.test("compress() says which layer does not fit the lease before any work", () =>
  withFolder(async (out) => {
    const error = await assertRejects(() => run(out, { memory: "64KiB" }), Error, "--memory");
    assertStringIncludes(error.message, "model.layers.0.");
  }));

Deno.test("compress() keeps matching layers dense and reports allocation by a plugin", () =>
  withFolder(async (out) => {
    const constant = defineStage({
      kind: "allocation",
      scope: "model",
      name: "constant",
      version: "1.0.0",
      description: "One rank.",
      options: v.strictObject({ rank: v.optional(v.number(), 7) }),
      estimate: () => ({ peakBytes: 0 }),
      run: ({ layers }, { rank }) =>
        Promise.resolve(new Map(layers.map(({ name }) => [name, { rank, reason: "constant" }]))),
    });
    const report = await run(out, { keep: ["k_proj$|\\.k_proj\\."], stages: { allocation: "constant" } }, {
      plugins: [constant],
    });
    assertEquals(report.layers.length, 12);
    assert(report.layers.every(({ rank, reason }) => rank === 7 && reason === "constant"));
    using artefact = await openArtefact(out);
    assertEquals(artefact.entries.get("model.layers.0.self_attn.k_proj.weight")?.kind, "dense");
  }));

Deno.test("compress() takes over what the allocation made with equal options, to the same bytes", async () => {
  await using runtime = await openRuntime({ threads: 1 });
  const results: { readonly made: number; readonly hashes: readonly string[] }[] = [];
  for (const reuse of [true, false]) {
    await withFolder(async (out) => {
      const options = { effort: "fast", iterations: 2, sweeps: 0 };
      const recipe: RecipeInput = {
        model: MODEL,
        out,
        bits: 1,
        blocks: [0, 0],
        stages: {
          allocation: { use: "measured", options: { iterations: 2 } },
          factorization: { use: "dbf-admm", options },
        },
      };
      const factorized = new Set<string>();
      const onEvent = (event: DbfEvent) => {
        if (event.type === "stage-progress" && event.stage === "dbf-admm") factorized.add(event.subject);
      };
      if (!reuse) {
        // stopped after the allocation: what it made is gone
        await using _ = await startRun(parseRecipe(recipe), { runtime });
      }
      const { layers } = await compress(recipe, { runtime, onEvent });
      using artefact = await openArtefact(out);
      const hashes = artefact.manifest.entries.map(({ sha256 }) => sha256);
      results.push({ made: layers.length - factorized.size, hashes });
    });
  }
  const [reusing, anew] = results;
  assert(reusing.made > 0 && reusing.made < 7, `${reusing.made} taken over`);
  assertEquals(anew, { made: 0, hashes: reusing.hashes });
});

Deno.test("compress() makes layers by the candidates that the allocation chose, within the size", async () => {
  await using runtime = await openRuntime({ threads: 1 });
  await withFolder(async (out) => {
    const size = 1_490_000;
    const report = await compress({
      model: MODEL,
      out,
      size,
      dtype: "f16",
      blocks: [0, 0],
      keep: ["mlp"],
      stages: {
        allocation: { use: "measured", options: { iterations: 1, ratios: [0.25, 0.5] } },
        factorization: { use: "dbf-admm", options: { effort: "fast", iterations: 1, sweeps: 0 } },
      },
      candidates: { int8: { use: "round-to-nearest", options: { bits: 8 } } },
    }, { runtime });
    const kinds = new Set(report.layers.map(({ kind }) => kind));
    assert(kinds.has("nbits"), [...kinds].join());
    for (const { kind, rank, reason } of report.layers) {
      assertEquals([rank === 0, reason.startsWith("int8: loss")], [kind === "nbits", kind === "nbits"]);
    }
    let bytes = 0;
    for (const name of ["model.onnx", "model.onnx.data"]) bytes += (await Deno.stat(`${report.exported}/${name}`)).size;
    assertLessOrEqual(bytes, size);
    assertEquals((await planArtefact(out)).layers.map(({ kind }) => kind), report.layers.map(({ kind }) => kind));
  });
});

Deno.test("compress() runs reconstruction by block and distillation over the model, resumably, as next generations", () =>
  withFolder(async (out) => {
    let failDistillation = true;
    const seen: string[] = [];
    const halve = defineStage({
      kind: "reconstruction",
      scope: "block",
      name: "halve",
      version: "1.0.0",
      description: "Halves the middle scale.",
      options: v.strictObject({}),
      estimate: () => ({ peakBytes: 1000 }),
      async run({ block, jobs, checkpoint, factorize, committed }) {
        seen.push(`block ${block}`);
        if (block > 0) assertExists(await committed("model.layers.0.self_attn.q_proj.weight"));
        const made = await Promise.all(jobs.map(async (job) => {
          const factors = factorsOfKind(job.name, await factorize(job, checkpoint.tensor(job.name)), "dbf");
          const latents = { A: new Uint16Array(job.rows * job.rank).fill(3), B: new Uint16Array(job.rank * job.cols) };
          return [job.name, { ...factors, mid: factors.mid.map((x) => x / 2), latents }] as const;
        }));
        return new Map(made);
      },
    });
    const tune = defineStage({
      kind: "distillation",
      scope: "model",
      name: "tune",
      version: "1.0.0",
      description: "Doubles the output scale of block 0.",
      options: v.strictObject({}),
      estimate: () => ({ peakBytes: 1000 }),
      async run({ jobs, factors, commit }) {
        for (const { name, block } of jobs) {
          const before = factorsOfKind(name, await factors(name), "dbf");
          assertEquals(before.latents?.A[0], 3);
          if (block > 0) {
            if (failDistillation) throw new Error("told to fail");
            continue;
          }
          await commit(name, { ...before, a: before.a.map((x) => 2 * x) });
          assertEquals(factorsOfKind(name, await factors(name), "dbf").a[0], 2);
        }
        return { loss: 1, flipped: 0 };
      },
    });
    const more = { stages: { reconstruction: ["halve", "halve"], distillation: "tune" } };
    await assertRejects(() => run(out, more, { plugins: [halve, tune] }), Error, "told to fail");
    assertEquals(seen, ["block 0", "block 0", "block 1", "block 1"]);
    failDistillation = false;
    // Crash between the commits of the new generation.
    let commits = 0;
    await assertRejects(
      () =>
        run(out, more, {
          plugins: [halve, tune],
          onCommitStep: (step) => {
            if (step === "journalled" && ++commits === 3) throw new Error("power cut");
          },
        }),
      Error,
      "power cut",
    );
    await run(out, more, { plugins: [halve, tune] });
    assertEquals(seen.length, 4);
    await run(`${out}-whole`, more, { plugins: [halve, tune] });
    // The journal is a log and tells of both attempts; everything else is the same.
    const { "journal.jsonl": _, ...artefactFiles } = await snapshot(out);
    const { "journal.jsonl": __, ...wholeFiles } = await snapshot(`${out}-whole`);
    assertEquals(artefactFiles, wholeFiles);

    using artefact = await openArtefact(out);
    const name = "model.layers.0.mlp.up_proj.weight";
    const entry = artefact.entries.get(name)!;
    const factors = factorsOfKind(name, unpackFactors(name, entry.shape, await artefact.layer(name)), "dbf");
    assertEquals([entry.generation, factors.a[0], factors.mid[0]], [1, 2, 0.125]);
    assertEquals(artefact.entries.get("model.layers.1.mlp.up_proj.weight")?.generation, 0);
  }));

Deno.test("compress() takes importance over from the cache at other bits, and not for another text", () =>
  withFolder(async (out) => {
    let runs = 0;
    const counted = defineStage({
      kind: "importance",
      scope: "model",
      name: "counted",
      version: "1.0.0",
      description: "Ones; counts its runs.",
      options: v.strictObject({}),
      estimate: () => ({ peakBytes: 0 }),
      run({ layers }) {
        runs++;
        const ones = (length: number) => new Float32Array(length).fill(1);
        return Promise.resolve(
          new Map(layers.map(({ name, rows, cols }) => [name, { input: ones(cols), output: ones(rows) }])),
        );
      },
    });
    const cache = `${out}-cache`;
    const notices: string[] = [];
    const go = (directory: string, bits: number, sequences: number) =>
      run(directory, {
        bits,
        cache,
        stages: { importance: "counted" },
        calibration: { source: `${MODEL}/calibration.txt`, sequences, length: 16 },
      }, { plugins: [counted], onEvent: (event) => event.type === "notice" && notices.push(event.message) });
    await go(`${out}-1`, 1, 4);
    assertEquals([runs, notices.length], [1, 0]);
    await go(`${out}-2`, 2, 4);
    assertEquals([runs, notices.length], [1, 1]);
    assertStringIncludes(notices[0], cache);
    await go(`${out}-3`, 1, 5);
    assertEquals(runs, 2);
  }));
