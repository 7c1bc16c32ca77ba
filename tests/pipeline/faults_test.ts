/** Faults while a run is under way, through the real code path: each names its tensor, and what was committed stays. */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { readJournal } from "../../pipeline/artefact/journal.ts";
import { compress } from "../../pipeline/compress.ts";
import type { CompressOptions } from "../../pipeline/start_run.ts";
import type { RecipeInput } from "../../pipeline/recipe/schema.ts";
import type { DbfEvent } from "../../pipeline/stream/events.ts";
import { defineStage } from "../../pipeline/stream/stage.ts";
import * as v from "valibot";
import { fakeFactors, fakeRuntime, fakeStages, snapshot } from "./fake_stages.ts";

const MODEL = "tests/fixtures/tiny-llama";
const DAMAGED = "model.layers.1.mlp.up_proj.weight";

function run(model: string, out: string, options: CompressOptions = {}, more: Partial<RecipeInput> = {}) {
  return compress({
    model,
    out,
    bits: 1,
    ...more,
    stages: { factorization: "fake", target: "listing", ...more.stages },
  }, { runtime: fakeRuntime, ...options, plugins: [...fakeStages, ...options.plugins ?? []] });
}

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "dbf-faults-" });
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function copyModel(folder: string): Promise<string> {
  const model = join(folder, "model");
  await Deno.mkdir(model);
  for await (const { name } of Deno.readDir(MODEL)) {
    if (/config\.json$|tokenizer|safetensors$/.test(name)) await Deno.copyFile(join(MODEL, name), join(model, name));
  }
  return model;
}

/** Names that the journal of an unfinished run holds. */
async function committedIn(out: string): Promise<string[]> {
  const { lines } = await readJournal(join(out, "journal.jsonl"));
  return lines.flatMap((line) => line.type === "commit" ? [line.name] : []);
}

for (
  const [what, spoil, message] of [
    ["a NaN scale", (factors) => ({ ...factors, a: factors.a.map(() => NaN) }), "must be a finite scale"],
    ["too few scales", (factors) => ({ ...factors, mid: factors.mid.slice(1) }), "scales: current value is"],
    ["signs of another shape", (factors) => ({ ...factors, A: factors.B }), "its factors must be"],
    ["another rank", (factors) => ({ ...factors, rank: factors.rank + 1 }), "its factors must be"],
  ] as [string, (factors: ReturnType<typeof fakeFactors>) => ReturnType<typeof fakeFactors>, string][]
) {
  Deno.test(`compress() refuses ${what} from a plugin by the layer's name and keeps what was committed`, () =>
    withFolder(async (folder) => {
      const spoiling = defineStage({
        kind: "factorization",
        scope: "layer",
        name: "spoiling",
        version: "1.0.0",
        description: "Right for all layers but one.",
        options: v.strictObject({}),
        estimate: () => ({ peakBytes: 1 }),
        async run({ job, weight }) {
          const factors = fakeFactors(job, await weight.readRows(0, 1));
          return job.name === DAMAGED ? spoil(factors) : factors;
        },
      });
      const out = join(folder, "out");
      const error = await assertRejects(
        () => run(MODEL, out, { plugins: [spoiling] }, { stages: { factorization: "spoiling" } }),
        RangeError,
        message,
      );
      assertStringIncludes(error.message, DAMAGED);
      const names = await committedIn(out);
      assert(names.length > 7 && !names.includes(DAMAGED));
    }));
}

Deno.test("compress() names tensor and file when a shard is cut while it runs, and goes on once it is back", () =>
  withFolder(async (folder) => {
    const model = await copyModel(folder), out = join(folder, "out");
    const shard = join(model, "model.safetensors");
    let cut = false;
    const onEvent = (event: DbfEvent) => {
      if (cut || event.type !== "layer-committed") return;
      cut = true;
      Deno.truncateSync(shard, 500_000);
    };
    const error = await assertRejects(() => run(model, out, { onEvent }));
    assertStringIncludes((error as Error).message, "model.safetensors");
    assertStringIncludes((error as Error).message, "model.layers.");
    const before = await committedIn(out);
    assert(before.length >= 1);
    await Deno.copyFile(join(MODEL, "model.safetensors"), shard);
    const report = await run(model, out);
    assert(report.resumedLayers >= before.length);
    await run(MODEL, join(folder, "whole"));
    const [resumed, whole] = [await snapshot(out), await snapshot(join(folder, "whole"))];
    for (const files of [resumed, whole]) delete files["journal.jsonl"];
    assertEquals(resumed, whole);
  }));

Deno.test("compress() notices a checkpoint that is replaced while it runs, and keeps what was committed", () =>
  withFolder(async (folder) => {
    const model = await copyModel(folder), out = join(folder, "out");
    const shard = join(model, "model.safetensors");
    let replaced = false;
    const onEvent = (event: DbfEvent) => {
      if (replaced || event.type !== "layer-committed") return;
      replaced = true;
      Deno.copyFileSync(shard, `${shard}.new`);
      Deno.renameSync(`${shard}.new`, shard);
    };
    const error = await assertRejects(() => run(model, out, { onEvent }), Error, "was replaced while it was in use");
    assertStringIncludes(error.message, "model.layers.");
    const before = await committedIn(out);
    // The same bytes are there: the run goes on.
    assert((await run(model, out)).resumedLayers >= before.length && before.length > 0);
  }));

Deno.test("compress() makes a committed layer again whose file was damaged, and says so", () =>
  withFolder(async (folder) => {
    const out = join(folder, "out");
    await run(MODEL, out);
    const path = join(out, "layers", `${DAMAGED}.g0.safetensors`);
    const good = await Deno.readFile(path);
    const bad = good.slice();
    bad[bad.length - 1] ^= 1;
    await Deno.writeFile(path, bad);
    const notices: string[] = [];
    await run(MODEL, out, { onEvent: (event) => event.type === "notice" && notices.push(event.message) });
    assertEquals(notices.filter((notice) => notice.includes(DAMAGED)).length, 1);
    assertEquals(await Deno.readFile(path), good);
  }));

Deno.test("compress() ends with the signal's reason and leaves no half-written layer", () =>
  withFolder(async (folder) => {
    const out = join(folder, "out");
    const stop = new AbortController();
    const onEvent = (event: DbfEvent) => event.type === "layer-committed" && stop.abort(new Error("interrupted"));
    await assertRejects(() => run(MODEL, out, { signal: stop.signal, onEvent }), Error, "interrupted");
    const names = [...Deno.readDirSync(join(out, "layers"))].map(({ name }) => name);
    assertEquals(names.filter((name) => name.endsWith(".tmp")), []);
  }));

/** A file system of 2 MiB, where this process may mount one (as root on Linux). */
async function mountSmall(directory: string): Promise<boolean> {
  if (Deno.build.os !== "linux") return false;
  await Deno.mkdir(directory, { recursive: true });
  const { success } = await new Deno.Command("mount", {
    args: ["-t", "tmpfs", "-o", "size=2m", "tmpfs", directory],
    stderr: "null",
  }).output().catch(() => ({ success: false }));
  return success;
}

const probe = Deno.makeTempDirSync({ prefix: "dbf-mount-" });
const canMount = await mountSmall(probe);
if (canMount) await new Deno.Command("umount", { args: [probe] }).output();
Deno.removeSync(probe);

Deno.test({
  name: "compress() names the layer when the disk fills up, keeps what was committed, and goes on when there is room",
  ignore: !canMount,
  fn: () =>
    withFolder(async (folder) => {
      const disk = join(folder, "disk"), out = join(disk, "out");
      assert(await mountSmall(disk));
      try {
        let filled = false;
        // The pre-flight sees enough room; then something else takes it.
        const onEvent = (event: DbfEvent) => {
          if (filled || event.type !== "layer-committed" || event.done < 5) return;
          filled = true;
          try {
            Deno.writeFileSync(join(disk, "ballast"), new Uint8Array(4_000_000));
          } catch { /* as much as fits */ }
        };
        const small = { blocks: [0, 0] as const, bits: 0.5 };
        const error = await assertRejects(() => run(MODEL, out, { onEvent }, small), Error, "No space left");
        assertStringIncludes(error.message, "make room and run again to resume");
        await Deno.remove(join(disk, "ballast"));
        const report = await run(MODEL, out, {}, small);
        assert(report.resumedLayers >= 5, `${report.resumedLayers} layers were kept`);
      } finally {
        await new Deno.Command("umount", { args: [disk] }).output();
      }
    }),
});
