import { assert, assertEquals, assertExists, assertNotEquals, assertRejects } from "@std/assert";
import * as v from "valibot";
import { openRuntime } from "../../kernels/runtime/open.ts";
import { compress } from "../../pipeline/compress.ts";
import type { RecipeInput } from "../../pipeline/recipe/schema.ts";
import type { DbfEvent } from "../../pipeline/stream/events.ts";
import { defineStage } from "../../pipeline/stream/stage.ts";
import { fakeStages, snapshot } from "./fake_stages.ts";

const MODEL = "tests/fixtures/tiny-llama";

/** Two batches of the model's own text beside two windows of a file. */
const CALIBRATION = { source: `${MODEL}/calibration.txt`, sequences: 2, generated: 130, length: 8 };

/** Runs with the windows that importance sees; `until` aborts at an event. */
async function withRuns(
  body: (
    folder: string,
    go: (
      out: string,
      more?: Partial<RecipeInput>,
      until?: (event: DbfEvent) => boolean,
    ) => Promise<{ readonly windows: readonly Int32Array[]; readonly notices: readonly string[] }>,
  ) => Promise<void>,
): Promise<void> {
  await using runtime = await openRuntime({ threads: 1 });
  const folder = await Deno.makeTempDir({ prefix: "dbf-own-text-" });
  try {
    await body(folder, async (out, more = {}, until = () => false) => {
      let windows: readonly Int32Array[] = [];
      const watching = defineStage({
        kind: "importance",
        scope: "model",
        name: "watching",
        version: "1.0.0",
        description: "Ones from the first token of every window; remembers the windows.",
        options: v.strictObject({ tokens: v.optional(v.number(), 10_000) }),
        calibrationTokens: ({ tokens }) => tokens,
        estimate: () => ({ peakBytes: 0 }),
        run({ layers, calibration }) {
          windows = calibration;
          const sum = calibration.reduce((all, [first]) => all + first, 1);
          const filled = (length: number) => new Float32Array(length).fill(sum);
          return Promise.resolve(
            new Map(layers.map(({ name, rows, cols }) => [name, { input: filled(cols), output: filled(rows) }])),
          );
        },
      });
      const controller = new AbortController();
      const notices: string[] = [];
      const recipe: RecipeInput = {
        model: MODEL,
        out,
        bits: 1,
        blocks: [0, 0],
        calibration: CALIBRATION,
        ...more,
        stages: { factorization: "fake", target: "listing", importance: "watching", ...more.stages },
      };
      await compress(recipe, {
        runtime,
        plugins: [...fakeStages, watching],
        signal: controller.signal,
        onEvent(event) {
          if (event.type === "notice") notices.push(event.message);
          if (until(event)) controller.abort(new Error("stopped here"));
        },
      });
      return { windows, notices };
    });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Other options, so that importance is not taken from the cache. */
const importance = (tokens: number) => ({ stages: { importance: { use: "watching", options: { tokens } } } });

const afterBatch = (batch: number) => (event: DbfEvent) =>
  event.type === "stage-progress" && event.stage === "self-text" && event.done >= 65 * batch;

const has = (notices: readonly string[], word: string) => notices.filter((notice) => notice.includes(word)).length;

Deno.test("compress() keeps every batch of the model's own text, and a resumed run makes only what is not there", () =>
  withRuns(async (folder, go) => {
    const whole = await go(`${folder}/whole`);
    assertEquals([whole.windows.length, has(whole.notices, "writes text")], [132, 1]);

    const out = `${folder}/out`;
    await assertRejects(() => go(out, {}, afterBatch(1)), Error, "stopped here");
    const kept = async () => {
      const files = await Array.fromAsync(Deno.readDir(`${out}/.work/own-text`), ({ name }) => name);
      return await Promise.all(files.map((name) => Deno.stat(`${out}/.work/own-text/${name}`)));
    };
    assertEquals((await kept()).map(({ size }) => size), [32 + 4 * 65 * 8]);
    const [first] = await kept();
    await assertRejects(() => go(out, {}, afterBatch(2)), Error, "stopped here");
    assertEquals((await kept()).length, 2);
    assert((await kept()).some(({ mtime }) => mtime?.getTime() === first.mtime?.getTime()), "the first batch was kept");

    const resumed = await go(out);
    assertEquals([has(resumed.notices, "writes text"), has(resumed.notices, "is used")], [0, 2]);
    assertEquals(resumed.windows, whole.windows);
    const { "journal.jsonl": _, ...files } = await snapshot(out);
    const { "journal.jsonl": __, ...expected } = await snapshot(`${folder}/whole`);
    assertEquals(files, expected);
  }));

Deno.test("compress() takes the model's own text from the cache, makes a damaged batch again, and another seed's or temperature's anew", () =>
  withRuns(async (folder, go) => {
    const cache = `${folder}/cache`;
    const first = await go(`${folder}/1`, { cache });
    const names = await Array.fromAsync(Deno.readDir(`${cache}/own-text`), ({ name }) => name);
    assertEquals([names.length, has(first.notices, "writes text")], [2, 1]);

    const path = `${cache}/own-text/${names[0]}`;
    const good = await Deno.readFile(path);
    await Deno.writeFile(path, good.with(100, good[100] ^ 1));
    const mended = await go(`${folder}/2`, { cache, ...importance(10_001) });
    assertEquals([has(mended.notices, "is damaged and made again"), has(mended.notices, "writes text")], [1, 1]);
    assertEquals(await Deno.readFile(path), good);
    assertEquals(mended.windows, first.windows);

    // another machine's directory
    await Deno.rename(cache, `${folder}/moved`);
    const moved = await go(`${folder}/3`, { cache: `${folder}/moved`, ...importance(10_002) });
    assertEquals([moved.windows, has(moved.notices, "writes text")], [first.windows, 0]);

    const other = await go(`${folder}/4`, { cache: `${folder}/moved`, seed: 1 });
    assertEquals(has(other.notices, "writes text"), 1);
    assertNotEquals(other.windows, first.windows);
    const calibration = { ...CALIBRATION, temperature: 0.5 };
    const cold = await go(`${folder}/5`, { cache: `${folder}/moved`, calibration });
    assertEquals(has(cold.notices, "writes text"), 1);
    assertNotEquals(cold.windows, first.windows);
    const again = await go(`${folder}/6`, { cache: `${folder}/moved`, calibration, ...importance(10_003) });
    assertEquals([again.windows, has(again.notices, "writes text")], [cold.windows, 0]);
  }));

Deno.test("compress() gives a stage no more calibration tokens than it asks for, the text's before the model's own", () =>
  withRuns(async (folder, go) => {
    const cache = `${folder}/cache`;
    const { windows: all } = await go(`${folder}/all`, { cache });
    const { windows: few } = await go(`${folder}/few`, { cache, ...importance(5 * 8 + 7) });
    assertEquals(few, [all[0], all[1], all[2], all[2 + 43], all[2 + 86]]);
    const { windows: one } = await go(`${folder}/one`, { cache, ...importance(1) });
    assertEquals(one, [all[0]]);
    assertExists(all[131]);
  }));
