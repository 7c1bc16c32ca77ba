import { assert, assertEquals, assertLess, assertRejects } from "@std/assert";
import { describeArtefact } from "../../../pipeline/artefact/describe.ts";
import { viewCheckpoint } from "../../../pipeline/artefact/checkpoint_view.ts";
import { openCheckpoint } from "../../../pipeline/checkpoint/open.ts";
import { exportModel } from "../../../pipeline/export/export_model.ts";
import { truncateBlocks } from "../../../pipeline/model/describe.ts";
import type { DbfEvent } from "../../../pipeline/stream/events.ts";
import { onnxTarget } from "../../../plugins/target/onnx/stage.ts";
import { ARCHITECTURES, compareGolden, fixture, readGolden, relativeDifference } from "../model/golden.ts";
import { bestLast, type Cache, emptyCache, loadDecoder, step, withExport } from "./decoder_runner.ts";

for (const name of [...ARCHITECTURES, "tiny-llama"]) {
  Deno.test(`the onnx target of ${name} reproduces its golden logits, whole and through the cache`, async () => {
    await withExport(name, "f32", async (directory) => {
      const session = await loadDecoder(directory);
      const golden = readGolden(name), ids = golden.input_ids, ones = ids.map(() => 1);
      const whole = await step(session, [ids], [ones], emptyCache(session, 1));
      const difference = compareGolden(golden, whole.logits.data as Float32Array);
      assertLess(difference.logits, 1e-3);
      assertLess(difference.nll, 1e-4);

      // In pieces of 1, 7 and the rest: what the cache gives back must be what was put in.
      let cache = emptyCache(session, 1), at = 0;
      const pieces: Float32Array[] = [];
      for (const length of [1, 7, ids.length - 8]) {
        const next = await step(session, [ids.slice(at, at + length)], [ones.slice(0, at + length)], cache);
        pieces.push(next.logits.data as Float32Array);
        cache = next.cache;
        at += length;
      }
      const joined = Float32Array.from(pieces.flatMap((piece) => [...piece]));
      assertLess(compareGolden(golden, joined).logits, 1e-3);
      await session.release();
    });
  });
}

for (const name of ARCHITECTURES) {
  Deno.test(`a left-padded batch of ${name} gives each sequence the logits that it has alone`, async () => {
    await withExport(name, "f32", async (directory) => {
      const session = await loadDecoder(directory);
      const { input_ids: ids } = readGolden(name), pad = 11, short = ids.slice(pad);
      const masks = [ids.map(() => 1), ids.map((_, at) => (at < pad ? 0 : 1))];
      const padded = [...ids.slice(0, pad).map(() => 0), ...short];
      // In two pieces, so that padding lies in the cache too; the second is longer than the fixtures' windows.
      const first = await step(
        session,
        [ids.slice(0, 15), padded.slice(0, 15)],
        masks.map((mask) => mask.slice(0, 15)),
        emptyCache(session, 2),
      );
      const second = await step(session, [ids.slice(15), padded.slice(15)], masks, first.cache);
      const alone = await step(session, [short], [short.map(() => 1)], emptyCache(session, 1));
      const vocabulary = second.logits.dims[2], count = ids.length - 15;
      assert((first.logits.data as Float32Array).every(Number.isFinite), "padding must not give NaN");
      const rows = (second.logits.data as Float32Array).subarray(count * vocabulary);
      const expected = (alone.logits.data as Float32Array).subarray((15 - pad) * vocabulary);
      assertLess(relativeDifference(rows, expected), 1e-4);
      await session.release();
    });
  });
}

interface Greedy {
  readonly prompt_ids: number[];
  readonly greedy_ids: number[];
}
const greedy = (): Greedy => JSON.parse(Deno.readTextFileSync(`${fixture("tiny-llama")}/greedy.json`));

Deno.test("an export of tiny-llama continues greedily token by token as greedy.json, with a cache and without", async () => {
  await withExport("tiny-llama", "f32", async (directory) => {
    const session = await loadDecoder(directory);
    const { prompt_ids, greedy_ids } = greedy();
    for (const cached of [true, false]) {
      const ids = [...prompt_ids], found: number[] = [];
      let cache: Cache = emptyCache(session, 1), fresh = ids;
      while (found.length < greedy_ids.length) {
        const { logits, cache: next } = await step(session, [fresh], [ids.map(() => 1)], cache);
        const token = bestLast(logits, 0);
        found.push(token);
        ids.push(token);
        fresh = cached ? [token] : ids;
        if (cached) cache = next;
      }
      assertEquals(found, greedy_ids);
    }
    await session.release();
  });
});

Deno.test("a left-padded batch of an export continues as each sequence alone", async () => {
  await withExport("tiny-llama", "f32", async (directory) => {
    const session = await loadDecoder(directory);
    const { prompt_ids, greedy_ids } = greedy();
    const prompts = [prompt_ids, prompt_ids.slice(0, 5), prompt_ids.slice(3, 20)];
    const continueAll = async (rows: readonly number[][]) => {
      const width = Math.max(...rows.map(({ length }) => length));
      const masks = rows.map((row) => Array.from({ length: width }, (_, at) => (at < width - row.length ? 0 : 1)));
      let fresh = rows.map((row) => [...Array(width - row.length).fill(0), ...row]);
      let cache = emptyCache(session, rows.length);
      const found = rows.map((): number[] => []);
      for (let count = 0; count < greedy_ids.length; count++) {
        const next = await step(session, fresh, masks, cache);
        assert((next.logits.data as Float32Array).every(Number.isFinite), "padding must not give NaN");
        fresh = rows.map((_, row) => [bestLast(next.logits, row)]);
        fresh.forEach(([token], row) => found[row].push(token));
        masks.forEach((mask) => mask.push(1));
        cache = next.cache;
      }
      return found;
    };
    const together = await continueAll(prompts);
    assertEquals(together[0], greedy_ids);
    for (const [index, prompt] of prompts.entries()) assertEquals((await continueAll([prompt]))[0], together[index]);
    await session.release();
  });
});

Deno.test("exportModel() copies companions, writes a card and progress, and leaves no temporary file", async () => {
  const parent = await Deno.makeTempDir();
  try {
    using source = viewCheckpoint(await openCheckpoint(fixture("tiny-llama")));
    const model = await describeArtefact(source), directory = `${parent}/onnx`;
    const events: DbfEvent[] = [];
    const onEvent = (event: DbfEvent) => events.push(event);
    const { files } = await exportModel({ source, model, directory, target: onnxTarget, onEvent });
    assertEquals([...Deno.readDirSync(parent)].map(({ name }) => name), ["onnx"]);
    assertEquals(files.map(({ name }) => name).sort(), [...Deno.readDirSync(directory)].map(({ name }) => name).sort());
    for (const name of ["model.onnx", "model.onnx.data", "config.json", "tokenizer.json", "README.md"]) {
      assert(files.some((file) => file.name === name && file.bytes > 0), name);
    }
    const last = events.findLast((event) => event.type === "export-progress");
    assert(last?.type === "export-progress" && last.bytesDone === last.bytesTotal && last.bytesTotal > 7e6);
    // The tied embedding is stored once: 4 bytes for each of the model's parameters, hardly more.
    const parameters = [...source.entries.values()].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b), 0);
    assertLess(files.find(({ name }) => name === "model.onnx.data")!.bytes, 4 * parameters + 100_000);

    await assertRejects(() => exportModel({ source, model, directory, target: onnxTarget }), Deno.errors.AlreadyExists);
    await exportModel({ source, model, directory, target: onnxTarget, overwrite: true });
    assertEquals([...Deno.readDirSync(parent)].map(({ name }) => name), ["onnx"]);
    const foreign = `${parent}/foreign`;
    await Deno.mkdir(foreign);
    await Deno.writeTextFile(`${foreign}/thesis.txt`, "the only copy");
    await assertRejects(
      () => exportModel({ source, model, directory: foreign, target: onnxTarget, overwrite: true }),
      Deno.errors.AlreadyExists,
      "thesis.txt",
    );
  } finally {
    await Deno.remove(parent, { recursive: true });
  }
});

Deno.test("exportModel() of some blocks makes a shorter model whose config says so", async () => {
  const parent = await Deno.makeTempDir();
  try {
    using source = viewCheckpoint(await openCheckpoint(fixture("tiny-llama")));
    const model = truncateBlocks(await describeArtefact(source), [1, 2]);
    await exportModel({ source, model, directory: `${parent}/part/`, target: onnxTarget });
    const session = await loadDecoder(`${parent}/part`);
    assertEquals(session.outputNames.length, 1 + 2 * 2);
    assertEquals(JSON.parse(await Deno.readTextFile(`${parent}/part/config.json`)).num_hidden_layers, 2);
    await session.release();
  } finally {
    await Deno.remove(parent, { recursive: true });
  }
});

Deno.test("exportModel() leaves nothing when it is aborted", async () => {
  const parent = await Deno.makeTempDir();
  try {
    using source = viewCheckpoint(await openCheckpoint(fixture("tiny-llama")));
    const model = await describeArtefact(source);
    const controller = new AbortController();
    const onEvent = (event: DbfEvent) => {
      if (event.type === "export-progress") controller.abort();
    };
    const exporting = exportModel({
      source,
      model,
      directory: `${parent}/onnx`,
      target: onnxTarget,
      signal: controller.signal,
      onEvent,
    });
    await assertRejects(() => exporting, DOMException);
    assertEquals([...Deno.readDirSync(parent)], []);
  } finally {
    await Deno.remove(parent, { recursive: true });
  }
});
