import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { selfText, windowsTogether } from "../../../pipeline/calibrate/self_text.ts";
import { openWindowSampler } from "../../../pipeline/calibrate/window_sampler.ts";
import { describeModel } from "../../../pipeline/model/describe.ts";

Deno.test("selfText() gives whole windows of the model's own text, the same for the same seed", async () => {
  await using runtime = await openRuntime({ threads: 1 });
  await using sampler = await openWindowSampler("tests/fixtures/tiny-llama", runtime, { length: 24, dtype: "f32" });
  const vocabularySize = 2048;
  const options = { vocabularySize, count: 3, length: 24, seed: 5, batch: 2 };
  const open = () => Promise.resolve(sampler);
  const windows = await selfText(open, options);
  assertEquals(windows.map(({ length }) => length), [24, 24, 24]);
  assert(windows.every((window) => window.every((token) => token >= 0 && token < vocabularySize)));
  assertEquals(await selfText(open, options), windows);
  assertNotEquals(await selfText(open, { ...options, seed: 6 }), windows);

  const text = [Int32Array.from({ length: 24 }, (_, at) => 100 + at)];
  for (const window of await selfText(open, { ...options, text })) {
    const [first] = window;
    assert(first >= 100 && first <= 118);
    // a quarter is the text's, the rest the model's
    assertEquals(window.subarray(0, 6), Int32Array.from({ length: 6 }, (_, at) => first + at));
    assertNotEquals(window.subarray(6), Int32Array.from({ length: 18 }, (_, at) => first + 6 + at));
  }
});

Deno.test("windowsTogether() follows the device's memory, up to 1024 on CUDA, in batches of nearly one size", () => {
  // 30 layers, 3 heads of 64: 50,135,040 bytes of keys and values for 1024 tokens, of 64 twice, half of that in float16; 983,040 of logits
  const model = describeModel({
    model_type: "llama",
    hidden_size: 576,
    intermediate_size: 1536,
    num_hidden_layers: 30,
    num_attention_heads: 9,
    num_key_value_heads: 3,
    vocab_size: 49152,
  });
  const together = (provider: "cpu" | "cuda", gib: number | undefined, count: number) =>
    windowsTogether({ provider, deviceMemory: gib && gib * 2 ** 30 }, model, 1024, count);
  assertEquals(together("cpu", undefined, 1000), 21);
  assertEquals(together("cuda", undefined, 10_000), 323);
  assertEquals(together("cuda", undefined, 200), 200);
  assertEquals(together("cuda", 64, 2048), 1024);
  assertEquals(together("cuda", 64, 5), 5);
});
