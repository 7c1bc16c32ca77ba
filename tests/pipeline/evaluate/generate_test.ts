import { assertEquals, assertRejects } from "@std/assert";
import { generate, generateBatch } from "../../../pipeline/evaluate/generate.ts";
import { fixture } from "../model/golden.ts";
import { openTinyLlama } from "./tiny_model.ts";

const greedy = JSON.parse(await Deno.readTextFile(`${fixture("tiny-llama")}/greedy.json`)) as {
  prompt_ids: number[];
  greedy_ids: number[];
  text: string;
};

Deno.test("generate() continues tiny-llama's prompt token by token as the reference does", async () => {
  await using model = await openTinyLlama();
  const tokenizer = await model.tokenizer();
  let text = tokenizer.decode(greedy.prompt_ids);
  const ids: number[] = [];
  for await (const token of generate(model, greedy.prompt_ids, { maxTokens: greedy.greedy_ids.length })) {
    ids.push(token.token);
    text += token.text;
  }
  assertEquals(ids, greedy.greedy_ids);
  assertEquals(text, greedy.text);
});

Deno.test("generateBatch() gives left-padded prompts of different lengths what each gets alone", async () => {
  await using model = await openTinyLlama();
  const tokenizer = await model.tokenizer();
  const prompts = [greedy.prompt_ids, tokenizer.encode("The people of"), greedy.prompt_ids.slice(0, 5)];
  const collect = async (some: number[][]) => {
    const rows = some.map(() => [] as (number | undefined)[]);
    for await (const step of generateBatch(model, some, { maxTokens: 12 })) {
      step.forEach((id, row) => rows[row].push(id));
    }
    return rows;
  };
  const together = await collect(prompts);
  for (const [row, prompt] of prompts.entries()) assertEquals((await collect([prompt]))[0], together[row]);
  assertEquals(together[0], greedy.greedy_ids.slice(0, 12));
});

Deno.test("generate() stops at any end-of-sequence id unless told to go on", async () => {
  await using opened = await openTinyLlama();
  const model = { ...opened, eos: [-1, greedy.greedy_ids[4]] };
  const run = async (ignoreEos: boolean) => {
    const tokens = generate(model, greedy.prompt_ids, { maxTokens: 8, ignoreEos });
    const ids: number[] = [];
    let next = await tokens.next();
    for (; !next.done; next = await tokens.next()) ids.push(next.value.token);
    return { ids, reason: next.value };
  };
  assertEquals(await run(false), { ids: greedy.greedy_ids.slice(0, 4), reason: "eos" });
  assertEquals(await run(true), { ids: greedy.greedy_ids.slice(0, 8), reason: "length" });
});

Deno.test("generate() samples the same text for the same seed and another for another", async () => {
  await using model = await openTinyLlama();
  const run = async (seed: number) => {
    let text = "";
    const options = { maxTokens: 12, temperature: 1, topP: 0.95, seed };
    for await (const token of generate(model, greedy.prompt_ids, options)) text += token.text;
    return text;
  };
  const first = await run(1);
  assertEquals(await run(1), first);
  assertEquals(await run(2) === first, false);
});

Deno.test("generate() prefills prompts longer than a chunk as in one go, and refuses what does not fit", async () => {
  await using model = await openTinyLlama();
  const tokenizer = await model.tokenizer();
  const long = tokenizer.encode((await Deno.readTextFile(`${fixture("tiny-llama")}/heldout.txt`)).slice(0, 1600));
  const prompt = long.slice(0, 300);
  const ids: number[] = [];
  for await (const { token } of generate(model, prompt, { maxTokens: 3 })) ids.push(token);
  using state = model.decoder.start(1);
  using logits = await state.append(Int32Array.from(prompt));
  const row = (await logits.read() as Float32Array).slice(-model.vocabularySize);
  assertEquals(ids[0], row.indexOf(row.reduce((a, b) => Math.max(a, b))));
  const all = async (ids: number[], maxTokens?: number) => await Array.fromAsync(generate(model, ids, { maxTokens }));
  await assertRejects(() => all(Array(512).fill(5)), RangeError, "shorten the prompt");
  await assertRejects(() => all(prompt, 400), RangeError, "at most 212 new tokens fit");
  await assertRejects(() => all([]), RangeError, "empty prompt");
});

Deno.test("generate() ends with the signal's reason when it is aborted", async () => {
  await using model = await openTinyLlama();
  const controller = new AbortController();
  await assertRejects(
    async () => {
      for await (const _ of generate(model, greedy.prompt_ids, { signal: controller.signal })) {
        controller.abort(new Error("enough"));
      }
    },
    Error,
    "enough",
  );
});
