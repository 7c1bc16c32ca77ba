import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { selfText } from "../../../pipeline/calibrate/self_text.ts";
import { openModel } from "../../../pipeline/evaluate/open_model.ts";

Deno.test("selfText() gives whole windows of the model's own text, the same for the same seed", async () => {
  await using runtime = await openRuntime({ threads: 1 });
  await using model = await openModel("tests/fixtures/tiny-llama", runtime);
  const options = { count: 3, length: 24, seed: 5, batch: 2 };
  const windows = await selfText(model, options);
  assertEquals(windows.map(({ length }) => length), [24, 24, 24]);
  assert(windows.every((window) => window.every((token) => token >= 0 && token < model.vocabularySize)));
  assertEquals(await selfText(model, options), windows);
  assertNotEquals(await selfText(model, { ...options, seed: 6 }), windows);

  const text = [Int32Array.from({ length: 24 }, (_, at) => 100 + at)];
  for (const window of await selfText(model, { ...options, text })) {
    const [first] = window;
    assert(first >= 100 && first <= 118);
    // a quarter is the text's, the rest the model's
    assertEquals(window.subarray(0, 6), Int32Array.from({ length: 6 }, (_, at) => first + at));
    assertNotEquals(window.subarray(6), Int32Array.from({ length: 18 }, (_, at) => first + 6 + at));
  }
});
