import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "node:path";
import { encodeText, readTokens } from "../../../pipeline/calibrate/text.ts";
import { consecutiveWindows, sampleWindows } from "../../../pipeline/calibrate/windows.ts";
import { loadTokenizer } from "../../../pipeline/evaluate/tokenizer.ts";

const FIXTURE = new URL("../../fixtures/tiny-llama/", import.meta.url).pathname;
const tokenizer = await loadTokenizer(FIXTURE);
const space = { vocabularySize: 2048, tokenizer: () => Promise.resolve(tokenizer) };

async function withFile(name: string, content: string | Uint8Array, body: (path: string) => Promise<void>) {
  const directory = await Deno.makeTempDir();
  try {
    const path = join(directory, name);
    await Deno.writeFile(path, typeof content === "string" ? new TextEncoder().encode(content) : content);
    await body(path);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

Deno.test("encodeText() with a limit gives the first ids of the whole text", async () => {
  const text = await Deno.readTextFile(join(FIXTURE, "heldout.txt"));
  const part = text.slice(0, 60_000);
  const all = encodeText(part, tokenizer);
  for (const limit of [1, 100, 1000, 5000]) assertEquals(encodeText(part, tokenizer, limit), all.slice(0, limit));
});

Deno.test("readTokens() reads line ends of any system as newlines", async () => {
  const expected = Int32Array.from(tokenizer.encode("one\ntwo\n"));
  await withFile("a.txt", "\ufeffone\r\ntwo\r", async (path) => assertEquals(await readTokens(path, space), expected));
});

Deno.test("readTokens() reads JSON lines of texts and conversations", async () => {
  const lines = `{"text": "Hello"}\n\n{"text": "there"}\n`;
  const expected = Int32Array.from([...tokenizer.encode("Hello"), 0, ...tokenizer.encode("there")]);
  await withFile("a.jsonl", lines, async (path) => {
    assertEquals(await readTokens(path, space, { separator: 0 }), expected);
    assertEquals((await readTokens(path, space, { limit: 1 })).length, 1);
  });
  const chat = `{"messages": [{"role": "user", "content": "Hi"}]}`;
  await withFile("a.jsonl", chat, async (path) => {
    await assertRejects(() => readTokens(path, space), SyntaxError, "no chat template");
    const template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}";
    const chatty = { ...tokenizer, config: { chat_template: template } };
    const ids = await readTokens(path, { ...space, tokenizer: () => Promise.resolve(chatty) });
    assertEquals(tokenizer.decode([...ids]), "user: Hi");
  });
});

Deno.test("readTokens() reads ids without a tokenizer and checks them", async () => {
  const bare = { vocabularySize: 10, tokenizer: () => Promise.reject(new Error("not needed")) };
  await withFile(
    "a.json",
    "[[1, 2], [3]]",
    async (path) => assertEquals(await readTokens(path, bare), Int32Array.of(1, 2, 3)),
  );
  const bytes = new Uint8Array(Int32Array.of(4, 5).buffer);
  await withFile("a.i32", bytes, async (path) => assertEquals(await readTokens(path, bare), Int32Array.of(4, 5)));
  await withFile(
    "a.json",
    "[1, 10]",
    (path) => assertRejects(() => readTokens(path, bare), RangeError, "position 1").then(),
  );
});

Deno.test("readTokens() names file and line of what it cannot read", async () => {
  const cases: [string, string | Uint8Array, string][] = [
    ["a.txt", "", "it is empty"],
    ["a.txt", Uint8Array.of(0xff, 0xfe, 0x41), "as UTF-8"],
    ["a.jsonl", `{"text": "a"}\n{oops`, "line 2"],
    ["a.jsonl", `{"content": "a"}`, `it needs "text"`],
    ["a.json", `["a"]`, "array of whole numbers"],
    ["a.i32", Uint8Array.of(1, 2, 3), "multiple of 4"],
  ];
  for (const [name, content, message] of cases) {
    await withFile(name, content, (path) => assertRejects(() => readTokens(path, space), Error, message).then());
  }
});

Deno.test("sampleWindows() takes different whole windows, the same for the same seed", () => {
  const ids = Int32Array.from({ length: 1005 }, (_, index) => index);
  const windows = sampleWindows(ids, 10, 20, 3);
  assertEquals(windows.length, 20);
  assertEquals(new Set(windows.map((window) => window[0])).size, 20);
  assertEquals(windows.every((window) => window[0] % 10 === 0 && window.length === 10), true);
  assertEquals(windows, sampleWindows(ids, 10, 20, 3));
  assertEquals(windows.toString() === sampleWindows(ids, 10, 20, 4).toString(), false);
  assertEquals(sampleWindows(ids, 10, 1000, 3).length, 100);
  assertThrows(() => sampleWindows(ids, 2000, 1, 0), RangeError, "the text has 1005");
});

Deno.test("consecutiveWindows() leaves out the rest unless it is all there is", () => {
  assertEquals(consecutiveWindows(Int32Array.of(1, 2, 3), 2).map((window) => [...window]), [[1, 2]]);
  assertEquals(consecutiveWindows(Int32Array.of(1, 2, 3), 5).map((window) => [...window]), [[1, 2, 3]]);
  assertThrows(() => consecutiveWindows(new Int32Array(4), 0), RangeError);
});
