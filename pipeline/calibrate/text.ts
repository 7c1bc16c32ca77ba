/**
 * Text files to token ids: plain text, JSON lines of texts or conversations, and files of ids.
 *
 * @module
 */
import { TextLineStream } from "@std/streams/text-line-stream";
import { type ChatMessage, createChatRenderer, findChatTemplate } from "../evaluate/chat.ts";
import type { TextTokenizer } from "../evaluate/tokenizer.ts";

/** Texts are tokenized in memory: WikiText-103 has 540 MB and would need hours. */
const MAX_TEXT_BYTES = 256 * 2 ** 20;
/** Characters that are surely enough for one token in prose; more are read when they prove too few. */
const CHARACTERS_PER_TOKEN = 12;
/** Fewest characters that a limited reading starts with. */
const MIN_CHARACTERS = 4096;

/** Whose ids are read: a language model has both. */
export interface TokenSpace {
  /** Ids are below this. */
  readonly vocabularySize: number;
  /** Loads the tokenizer; only called where there is text. */
  tokenizer(): Promise<TextTokenizer>;
}

/** Options of {@linkcode readTokens}. */
export interface ReadTokensOptions {
  /** Stop after this many ids; all by default. */
  readonly limit?: number;
  /** Put between documents of a JSON-lines file; nothing by default. */
  readonly separator?: number;
}

/**
 * Reads a file as token ids, without adding special tokens to plain text.
 *
 * By extension: `.jsonl` holds one object a line with `text`, or with `messages` that go through the model's chat
 * template; `.json` holds an array of ids, or an array of such arrays; `.i32` holds little-endian 32-bit ids; everything
 * else is UTF-8 text. Line ends of text are read as `\n`, as Python's text mode does, so that numbers compare.
 *
 * @param path The file.
 * @param space The model whose ids they are.
 * @throws {RangeError} when the file is empty or too large, or an id is outside the vocabulary.
 * @throws {SyntaxError} naming file and line of something that is not as described above.
 */
export async function readTokens(
  path: string,
  space: TokenSpace,
  options: ReadTokensOptions = {},
): Promise<Int32Array> {
  const limit = options.limit ?? Infinity;
  const { size } = await Deno.stat(path);
  if (size > MAX_TEXT_BYTES) {
    throw new RangeError(
      `Cannot read "${path}" as it has ${size} bytes: at most ${MAX_TEXT_BYTES}; cut it, or pass token ids`,
    );
  }
  const extension = path.slice(path.lastIndexOf(".")).toLowerCase();
  let ids: Int32Array;
  if (extension === ".jsonl") ids = await readJsonLines(path, await space.tokenizer(), limit, options.separator);
  else if (extension === ".json") ids = idsOfJson(path, await Deno.readTextFile(path));
  else if (extension === ".i32") ids = idsOfBytes(path, await Deno.readFile(path));
  else ids = encodeText(await readText(path), await space.tokenizer(), limit);
  if (ids.length === 0) throw new RangeError(`Cannot use "${path}" as text: it is empty`);
  const wrong = ids.findIndex((id) => id < 0 || id >= space.vocabularySize);
  if (wrong >= 0) {
    throw new RangeError(
      `Cannot use id ${ids[wrong]} at position ${wrong} of "${path}": the vocabulary has ${space.vocabularySize}`,
    );
  }
  return ids.length > limit ? ids.slice(0, limit) : ids;
}

/**
 * Reads UTF-8 text; `\r\n` and `\r` become `\n`, a byte-order mark is dropped.
 *
 * @throws {TypeError} when the file is not UTF-8.
 */
export async function readText(path: string): Promise<string> {
  const bytes = await Deno.readFile(path);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new TypeError(`Cannot read "${path}" as UTF-8 text: convert it, or name a .jsonl, .json or .i32 file`, {
      cause,
    });
  }
  return text.replace(/\r\n?/g, "\n");
}

/**
 * The first `limit` ids of a text. Only as much of a long text is tokenized as is needed: a beginning that gives more
 * than `limit` ids, cut at a line end, has the same first ids.
 */
export function encodeText(text: string, tokenizer: Pick<TextTokenizer, "encode">, limit = Infinity): Int32Array {
  let characters = Number.isFinite(limit) ? Math.max(MIN_CHARACTERS, limit * CHARACTERS_PER_TOKEN) : text.length;
  while (characters < text.length) {
    const lineEnd = text.lastIndexOf("\n", characters);
    const ids = tokenizer.encode(text.slice(0, lineEnd > 0 ? lineEnd : characters));
    if (ids.length > limit + 16) return Int32Array.from(ids.slice(0, limit));
    characters *= 2;
  }
  return Int32Array.from(tokenizer.encode(text).slice(0, limit));
}

async function readJsonLines(
  path: string,
  tokenizer: TextTokenizer,
  limit: number,
  separator: number | undefined,
): Promise<Int32Array> {
  using file = await Deno.open(path);
  await using chat = createChatRenderer();
  const lines = file.readable.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream());
  const ids: number[] = [];
  let template: string | undefined;
  let number = 0;
  for await (const line of lines) {
    number++;
    if (line.trim() === "") continue;
    const document = parseLine(path, number, line);
    if (ids.length > 0 && separator !== undefined) ids.push(separator);
    if ("text" in document) {
      for (const id of tokenizer.encode(document.text)) ids.push(id);
    } else {
      template ??= await findChatTemplate(tokenizer);
      if (template === undefined) {
        throw new SyntaxError(
          `Cannot use "messages" in line ${number} of "${path}": ${tokenizer.directory} has no chat template; write "text" instead`,
        );
      }
      const text = await chat.render(template, document.messages, tokenizer.specialTokens, {
        addGenerationPrompt: false,
      });
      for (const id of tokenizer.encode(text)) ids.push(id);
    }
    if (ids.length >= limit) break;
  }
  return Int32Array.from(ids);
}

function parseLine(path: string, number: number, line: string): { text: string } | { messages: ChatMessage[] } {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new SyntaxError(`Cannot read line ${number} of "${path}" as JSON: ${(cause as Error).message}`, { cause });
  }
  const document = value as { text?: unknown; messages?: unknown } | null;
  if (typeof document?.text === "string") return { text: document.text };
  const messages = document?.messages;
  const isMessage = (item: unknown) =>
    typeof (item as ChatMessage)?.role === "string" && typeof (item as ChatMessage)?.content === "string";
  if (Array.isArray(messages) && messages.every(isMessage)) return { messages };
  throw new SyntaxError(
    `Cannot use line ${number} of "${path}": it needs "text" (a string) or "messages" (a list of { role, content })`,
  );
}

function idsOfJson(path: string, text: string): Int32Array {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new SyntaxError(`Cannot read "${path}" as JSON: ${(cause as Error).message}`, { cause });
  }
  const flat = Array.isArray(value) ? value.flat() : [];
  if (flat.length === 0 || !flat.every((id) => Number.isInteger(id))) {
    throw new SyntaxError(
      `Cannot use "${path}" as token ids: it must be an array of whole numbers, or an array of such arrays`,
    );
  }
  return Int32Array.from(flat as number[]);
}

function idsOfBytes(path: string, bytes: Uint8Array): Int32Array {
  if (bytes.byteLength % 4 !== 0) {
    throw new SyntaxError(`Cannot use "${path}" as 32-bit ids: ${bytes.byteLength} bytes are not a multiple of 4`);
  }
  return new Int32Array(bytes.slice().buffer);
}
