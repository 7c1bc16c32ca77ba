/**
 * Chat templates: messages to the prompt text that a model was trained on.
 *
 * @module
 */
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { openFolder, readTextFile } from "../checkpoint/folder.ts";
import type { TextTokenizer } from "./tokenizer.ts";
import type { ChatReply, ChatRequest } from "./chat_worker.ts";

/** Llama 3.1's template has 4 kB, the longest in use about 30 kB. */
const MAX_TEMPLATE_BYTES = 2 ** 20;
/** Real templates take milliseconds. */
const TIME_LIMIT_MS = 10_000;
/** Heap of the worker: the longest prompt that is accepted has 32 MiB, and is built from parts. */
const MEMORY_LIMIT_MIB = 128;
/** Far more than any context holds. */
const MAX_PROMPT_CHARACTERS = 16 * 2 ** 20;

/** One turn of a conversation. */
export interface ChatMessage {
  /** `"system"`, `"user"`, `"assistant"`, or what the template knows. */
  readonly role: string;
  readonly content: string;
}

/**
 * Finds the chat template of a model: `chat_template.jinja`, else `chat_template` of tokenizer_config.json (a string,
 * or a list of named ones, of which `default` counts).
 *
 * @returns Jinja source, or `undefined` for a model without one.
 * @throws {RangeError} when it is larger than any real template.
 */
export async function findChatTemplate(tokenizer: TextTokenizer): Promise<string | undefined> {
  const file = await readTextFile(await openFolder(tokenizer.directory), "chat_template.jinja", MAX_TEMPLATE_BYTES);
  if (file !== undefined) return file;
  const field = tokenizer.config.chat_template;
  const template = Array.isArray(field) ? namedTemplate(field, "default") : field;
  if (typeof template !== "string") return undefined;
  if (template.length > MAX_TEMPLATE_BYTES) {
    const path = join(tokenizer.directory, "tokenizer_config.json");
    throw new RangeError(
      `Cannot use chat_template of "${path}" as it has ${template.length} characters: at most ${MAX_TEMPLATE_BYTES} are read`,
    );
  }
  return template;
}

function namedTemplate(list: readonly unknown[], name: string): unknown {
  const entries = list as readonly { readonly name?: unknown; readonly template?: unknown }[];
  return (entries.find((entry) => entry?.name === name) ?? entries[0])?.template;
}

/**
 * Renders messages with a chat template, in a worker that is ended after ten seconds or 128 MiB.
 *
 * @param template Jinja source from {@linkcode findChatTemplate}.
 * @param messages The conversation so far.
 * @param specialTokens Variables such as `bos_token`.
 * @param options `addGenerationPrompt`: open the assistant's turn (default true).
 * @throws {Error} when the template raises an error, needs too long or too much memory, or writes too much.
 */
export function renderChat(
  template: string,
  messages: readonly ChatMessage[],
  specialTokens: Readonly<Record<string, string>> = {},
  options: { readonly addGenerationPrompt?: boolean; readonly timeLimitMs?: number } = {},
): Promise<string> {
  const request: ChatRequest = {
    template,
    variables: { ...specialTokens, messages, add_generation_prompt: options.addGenerationPrompt ?? true },
  };
  // A worker of node:worker_threads, as only these can be given less memory than the process has.
  const worker = new Worker(new URL("./chat_worker.ts", import.meta.url), {
    workerData: request,
    resourceLimits: { maxOldGenerationSizeMb: MEMORY_LIMIT_MIB },
  });
  const limit = options.timeLimitMs ?? TIME_LIMIT_MS;
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const timer = setTimeout(
    () => reject(new Error(`Cannot render the chat template: it was not done after ${limit} ms; try without it`)),
    limit,
  );
  worker.on("message", (reply: ChatReply) => {
    if ("error" in reply) reject(new Error(reply.error));
    else if (reply.text.length > MAX_PROMPT_CHARACTERS) {
      reject(new RangeError(`Cannot use the chat template as it wrote ${reply.text.length} characters`));
    } else resolve(reply.text);
  });
  worker.on("error", (error: Error & { readonly code?: string }) => {
    const why = error.code === "ERR_WORKER_OUT_OF_MEMORY"
      ? `it needs more than ${MEMORY_LIMIT_MIB} MiB`
      : error.message;
    reject(new Error(`Cannot render the chat template: ${why}; try without it`));
  });
  return promise.finally(() => {
    clearTimeout(timer);
    return worker.terminate();
  });
}
