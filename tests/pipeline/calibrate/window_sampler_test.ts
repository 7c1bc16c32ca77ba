import { assertEquals, assertLess, assertRejects } from "@std/assert";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { openWindowSampler } from "../../../pipeline/calibrate/window_sampler.ts";
import { generateBatch } from "../../../pipeline/evaluate/generate.ts";
import { openModel } from "../../../pipeline/evaluate/open_model.ts";

/** Windows by the exported model, one growing cache: the slow twin. */
async function twin(
  path: string,
  prompts: readonly (readonly number[])[],
  length: number,
  seed: number,
  temperature = 1,
) {
  await using runtime = await openRuntime({ threads: 1 });
  await using model = await openModel(path, runtime);
  const options = { temperature, maxTokens: length - prompts[0].length, ignoreEos: true, seed };
  const steps = await Array.fromAsync(generateBatch(model, prompts, options));
  return prompts.map((prompt, index) => Int32Array.of(...prompt, ...steps.map((tokens) => tokens[index]!)));
}

// Recent tokens: all, several times full, and full with the last one. Prompts: below, at and above their number.
const CASES = [
  { model: "tiny-llama", given: 3, length: 20, recent: 64 },
  { model: "tiny-llama", given: 9, length: 34, recent: 4 },
  { model: "architectures/llama3_rope", given: 8, length: 25, recent: 8 },
  { model: "architectures/gemma2", given: 1, length: 24, recent: 5 },
  { model: "architectures/gemma3_text", given: 7, length: 24, recent: 3 },
  { model: "architectures/phi3", given: 8, length: 40, recent: 8 },
  { model: "architectures/olmo2", given: 4, length: 14, recent: 4 },
];

for (const { model, given, length, recent } of CASES) {
  Deno.test(`WindowSampler writes what ${model} generates: ${given} of ${length} tokens given, ${recent} recent`, async () => {
    const path = `tests/fixtures/${model}`;
    const prompts = Array.from({ length: 3 }, (_, at) => Array.from({ length: given }, (_, i) => 7 + 31 * at + 5 * i));
    await using runtime = await openRuntime({ threads: 1 });
    await using sampler = await openWindowSampler(path, runtime, { length, dtype: "f32", recent });
    const windows = await sampler.write({ prompts, length, seed: 3 });
    assertEquals(windows, await twin(path, prompts, length, 3));
    // Another number of windows, with the same session.
    const [first] = await sampler.write({ prompts: prompts.slice(0, 1), length, seed: 3 });
    assertEquals(first, windows[0]);
  });
}

// One operator attends: heads of their own, scale, softcap, windows shorter than the text, norms of queries, no rotation.
const FUSED = [
  "tiny-llama",
  ...["gemma2", "gemma3_text", "granite", "llama3_rope", "mistral", "olmo2", "phi3", "qwen2"]
    .concat("qwen3", "smollm3").map((name) => `architectures/${name}`),
];

for (const [at, model] of FUSED.entries()) {
  Deno.test(`WindowSampler writes what ${model} generates, with caches in place`, async () => {
    const path = `tests/fixtures/${model}`, length = 40, given = 1 + 3 * at % 7;
    const prompts = Array.from({ length: 3 }, (_, at) => Array.from({ length: given }, (_, i) => 7 + 31 * at + 5 * i));
    await using runtime = await openRuntime({ threads: 1 });
    await using sampler = await openWindowSampler(path, runtime, { length, dtype: "f32" });
    const windows = await sampler.write({ prompts, length, seed: 3 });
    assertEquals(windows, await twin(path, prompts, length, 3));
    const [first] = await sampler.write({ prompts: prompts.slice(0, 1), length, seed: 3 });
    assertEquals(first, windows[0]);
  });
}

Deno.test("WindowSampler draws in float16 what it draws in float32, but near borders of tokens", async () => {
  const path = "tests/fixtures/tiny-llama", length = 24, given = length - 1;
  await using runtime = await openRuntime({ threads: 1 });
  await using exact = await openWindowSampler(path, runtime, { length, dtype: "f32" });
  await using half = await openWindowSampler(path, runtime, { length, dtype: "f16" });
  const starts = Array.from({ length: 256 }, (_, at) => [7 + 3 * at]);
  const windows = await exact.write({ prompts: starts, length, seed: 3 });
  const prompts = windows.map((window) => [...window.subarray(0, given)]);
  const [one, two] = [await exact.write({ prompts, length, seed: 9 }), await half.write({ prompts, length, seed: 9 })];
  // Every border between two tokens moves by some thousandths: 10 of 256 differ here. A damaged distribution changes most of them.
  const other = one.filter((window, at) => window[given] !== two[at][given]).length;
  assertLess(other, 256 / 8);
});

for (const recent of [undefined, 5]) {
  Deno.test(`WindowSampler draws at a temperature, ${recent ? "with recent tokens apart" : "with caches in place"}`, async () => {
    const path = "tests/fixtures/tiny-llama", length = 24, prompts = [[7, 31, 5], [11, 2, 90]];
    await using runtime = await openRuntime({ threads: 1 });
    const write = async (temperature: number) => {
      await using sampler = await openWindowSampler(path, runtime, { length, dtype: "f32", temperature, recent });
      return await sampler.write({ prompts, length, seed: 3 });
    };
    // Near 0 the most likely token is drawn, whatever the random numbers are.
    assertEquals(await write(1e-3), await twin(path, prompts, length, 3, 1e-3));
    assertEquals(await write(0.7), await twin(path, prompts, length, 3, 0.7));
  });
}

Deno.test("openWindowSampler() refuses windows beyond the model's context", async () => {
  await using runtime = await openRuntime({ threads: 1 });
  await assertRejects(
    () => openWindowSampler("tests/fixtures/tiny-llama", runtime, { length: 100_000, dtype: "f32" }),
    RangeError,
    "set calibration.length",
  );
});
