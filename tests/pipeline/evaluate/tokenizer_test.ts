import { assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import { detokenizer } from "../../../pipeline/evaluate/detokenizer.ts";
import { findChatTemplate, renderChat } from "../../../pipeline/evaluate/chat.ts";
import { loadTokenizer } from "../../../pipeline/evaluate/tokenizer.ts";
import fc from "fast-check";

const FIXTURE = new URL("../../fixtures/tiny-llama/", import.meta.url).pathname;
const json = async (name: string) => JSON.parse(await Deno.readTextFile(join(FIXTURE, name)));

Deno.test("loadTokenizer() reproduces the reference's ids of the held-out text and decodes the greedy text", async () => {
  const tokenizer = await loadTokenizer(FIXTURE);
  const golden = await json("golden.json");
  const text = (await Deno.readTextFile(join(FIXTURE, "heldout.txt"))).slice(0, 2000);
  assertEquals(tokenizer.encode(text).slice(0, 128), golden.input_ids);
  const greedy = await json("greedy.json");
  assertEquals(tokenizer.decode([...greedy.prompt_ids, ...greedy.greedy_ids]), greedy.text);
  assertEquals(tokenizer.encode(greedy.text).slice(0, 32), greedy.prompt_ids);
});

Deno.test("loadTokenizer() keeps special tokens apart from text", async () => {
  const tokenizer = await loadTokenizer(FIXTURE);
  assertEquals(tokenizer.specialTokens, { bos_token: "<|endoftext|>", eos_token: "<|endoftext|>" });
  assertEquals(tokenizer.id("<|endoftext|>"), 0);
  const ids = tokenizer.encode("a<|endoftext|>b");
  assertEquals(ids.includes(0), true);
  assertEquals(tokenizer.decode(ids), "ab");
  assertEquals(tokenizer.decode(ids, { specials: true }), "a<|endoftext|>b");
});

Deno.test("loadTokenizer() names the file that is absent or damaged and says what to do", async () => {
  const directory = await Deno.makeTempDir();
  try {
    await assertRejects(() => loadTokenizer(directory), Deno.errors.NotFound, join(directory, "tokenizer.json"));
    await Deno.writeTextFile(join(directory, "tokenizer.json"), "{");
    await assertRejects(() => loadTokenizer(directory), SyntaxError, "tokenizer.json");
    await Deno.writeTextFile(join(directory, "tokenizer.json"), "[]");
    await assertRejects(() => loadTokenizer(directory), SyntaxError, "current value is an array");
    await Deno.writeTextFile(join(directory, "tokenizer.json"), `{"model": {"type": "Novel"}}`);
    await assertRejects(() => loadTokenizer(directory), TypeError, "as a tokenizer");
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("detokenizer() streams any text whole and never half a character", async () => {
  const tokenizer = await loadTokenizer(FIXTURE);
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", maxLength: 40 }), fc.nat(3), (raw, cut) => {
      const text = raw.replaceAll("\uFFFD", "");
      const ids = tokenizer.encode(text);
      const stream = detokenizer(tokenizer, ids.slice(0, 0));
      const pieces = ids.map((id) => stream.push(id));
      assertEquals(pieces.some((piece) => piece.includes("\uFFFD")), false);
      assertEquals(pieces.join("") + stream.end(), text);
      const half = detokenizer(tokenizer);
      const given = ids.slice(0, Math.max(0, ids.length - cut)).map((id) => half.push(id)).join("") + half.end();
      assertEquals(text.startsWith(given), true);
    }),
    { numRuns: 60 },
  );
});

Deno.test("detokenizer() goes on after bytes that are not UTF-8", () => {
  const decode = (ids: readonly number[]) => new TextDecoder().decode(Uint8Array.from(ids));
  const stream = detokenizer({ decode });
  const ids = [...Array(80).fill(0xff), 0x41, 0xe2, 0x82, 0xac, 0xe2];
  const text = ids.map((id) => stream.push(id)).join("") + stream.end();
  assertEquals(text.endsWith("A€"), true);
  assertEquals(text.replaceAll("\uFFFD", ""), "A€");
});

Deno.test("detokenizer() keeps the space between the prompt and the first new word", () => {
  // As sentencepiece decoders do: the leading space of the very first word is dropped.
  const words = ["\u2581I", "\u2581am", "\u2581here"];
  const decode = (ids: readonly number[]) => ids.map((id) => words[id]).join("").replaceAll("\u2581", " ").slice(1);
  const stream = detokenizer({ decode }, [0]);
  assertEquals([1, 2].map((id) => stream.push(id)), [" am", " here"]);
});

Deno.test("renderChat() renders messages, reports the template's own errors, and ends an endless or insatiable one", async () => {
  const template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}" +
    "{% if add_generation_prompt %}[assistant]{% endif %}";
  const messages = [{ role: "user", content: "Hi" }];
  assertEquals(await renderChat(template, messages, { bos_token: "<s>" }), "<s>[user]Hi\n[assistant]");
  await assertRejects(() => renderChat("{{ raise_exception('no system role') }}", messages), Error, "no system role");
  const long = Array.from({ length: 2000 }, () => ({ role: "user", content: "é".repeat(1000) }));
  assertEquals((await renderChat(template, long)).length, 2000 * 1007 + 11);
  const endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ '' }}{% endfor %}{% endfor %}";
  await assertRejects(
    () => renderChat(endless, messages, {}, { timeLimitMs: 300 }),
    Error,
    "not done after 300 ms within 32 MiB",
  );
  const doubling = "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}";
  await assertRejects(() => renderChat(doubling, messages), Error, "32 MiB");
});

Deno.test("findChatTemplate() prefers the file, then the default of a list, and finds none in tiny-llama", async () => {
  const tokenizer = await loadTokenizer(FIXTURE);
  assertEquals(await findChatTemplate(tokenizer), undefined);
  const list = [{ name: "tool_use", template: "T" }, { name: "default", template: "D" }];
  const listed = { ...tokenizer, config: { chat_template: list } };
  assertEquals(await findChatTemplate(listed), "D");
  const directory = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(join(directory, "chat_template.jinja"), "F");
    assertEquals(await findChatTemplate({ ...listed, directory }), "F");
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("loadTokenizer() refuses definitions made to use up time or memory, and links out of the folder", async () => {
  const directory = await Deno.makeTempDir(), path = join(directory, "tokenizer.json");
  const original = await json("tokenizer.json");
  const load = async (change: Record<string, unknown>) => {
    await Deno.writeTextFile(path, JSON.stringify({ ...original, ...change }));
    return await loadTokenizer(directory);
  };
  const doubling = { type: "Replace", pattern: { String: "a" }, content: "aa" };
  const split = (Regex: string) => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false });
  try {
    await load({});
    await assertRejects(() => load({ pre_tokenizer: split("(a+)+$") }), TypeError, "repeats the group (a+)+");
    const nested = { type: "Sequence", pretokenizers: [{ type: "Digits" }, split("(?:a|aa)*!")] };
    await assertRejects(() => load({ pre_tokenizer: nested }), TypeError, "pre_tokenizer.pretokenizers.1");
    const bomb = { type: "Sequence", normalizers: Array(40).fill(doubling) };
    await assertRejects(() => load({ normalizer: bomb }), TypeError, "lengthen a text");
    const model = { ...original.model, vocab: { ...original.model.vocab, a: 2 ** 40 } };
    await assertRejects(() => load({ model }), TypeError, "model.vocab");
    await Deno.writeTextFile(path, `${'{"a":'.repeat(100)}1${"}".repeat(100)}`);
    await assertRejects(() => loadTokenizer(directory), RangeError, "nested deeper than 64");
    await Deno.remove(path);
    await Deno.symlink(join(FIXTURE, "tokenizer.json"), path);
    await assertRejects(() => loadTokenizer(directory), RangeError, "link out of its folder");
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
