import { assertEquals, assertRejects } from "@std/assert";
import { dirname, join } from "node:path";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { generateBatch } from "../../../pipeline/evaluate/generate.ts";
import { openModel } from "../../../pipeline/evaluate/open_model.ts";
import type { DbfEvent } from "../../../pipeline/stream/events.ts";
import { fixture } from "../model/golden.ts";

Deno.test("openModel() exports a checkpoint to a temporary directory, says so, and removes it afterwards", async () => {
  await using runtime = await openRuntime({ threads: 1 });
  const events: DbfEvent[] = [];
  let temporary: string;
  {
    await using model = await openModel(fixture("qwen2"), runtime, { onEvent: (event) => events.push(event) });
    temporary = dirname(dirname(model.graph));
    assertEquals([model.vocabularySize, model.contextLength > 100], [320, true]);
    assertEquals(
      (await Array.fromAsync(generateBatch(model, [[1, 2, 3], [4]], { maxTokens: 3, ignoreEos: true }))).length,
      3,
    );
    await assertRejects(() => model.tokenizer(), Deno.errors.NotFound, "tokenizer.json");
  }
  await assertRejects(() => Deno.stat(temporary), Deno.errors.NotFound);
  assertEquals(events[0].type, "notice");
});

Deno.test("openModel() takes all end-of-sequence ids of generation_config.json and config.json", async () => {
  const directory = await Deno.makeTempDir();
  try {
    await using runtime = await openRuntime({ threads: 1 });
    for await (const { name } of Deno.readDir(fixture("llama"))) {
      if (name !== "golden.json") await Deno.copyFile(join(fixture("llama"), name), join(directory, name));
    }
    const file = join(directory, "generation_config.json");
    const config = JSON.parse(await Deno.readTextFile(file));
    await Deno.writeTextFile(file, JSON.stringify({ ...config, eos_token_id: [7, 9] }));
    await using model = await openModel(directory, runtime);
    assertEquals(model.eos.slice(0, 2), [7, 9]);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("openModel() says what a path lacks", async () => {
  await using runtime = await openRuntime({ threads: 1 });
  const directory = await Deno.makeTempDir();
  try {
    const open = (path: string) => () => openModel(path, runtime);
    await assertRejects(open("meta-llama/Llama-2-7b"), Deno.errors.NotFound, "a hub's name is not enough");
    await assertRejects(open(directory), Deno.errors.NotFound, "model.onnx");
    await assertRejects(open(join(fixture("llama"), "config.json")), TypeError, "give its directory");
    await Deno.writeTextFile(join(directory, "manifest.json"), "{}");
    await assertRejects(open(directory), TypeError, "dbf export");
    await Deno.remove(join(directory, "manifest.json"));
    await Deno.writeTextFile(join(directory, "model.onnx"), "damaged");
    await assertRejects(open(directory), Error);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
