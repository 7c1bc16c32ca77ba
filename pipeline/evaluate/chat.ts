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
/** Real templates take milliseconds; the worker's start does not count. */
const TIME_LIMIT_MS = 1000;
/** Heap of the worker, which the system lets a template exceed fourfold before it ends; 20,000 messages, 5 MB of text, fit. */
const MEMORY_LIMIT_MIB = 32;
/** A context of a million tokens holds about that much. */
const MAX_PROMPT_CHARACTERS = 4 * 2 ** 20;

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

/** Renders templates in one worker, which is started when first needed, and again after it had to be ended. */
export interface ChatRenderer extends AsyncDisposable {
  /**
   * Renders messages; calls must not overlap.
   *
   * @param template Jinja source from {@linkcode findChatTemplate}.
   * @param messages The conversation so far.
   * @param specialTokens Variables such as `bos_token`.
   * @param options `addGenerationPrompt`: open the assistant's turn (default true).
   * @throws {Error} when the template raises an error, needs too long or too much memory, or writes too much.
   */
  render(
    template: string,
    messages: readonly ChatMessage[],
    specialTokens?: Readonly<Record<string, string>>,
    options?: { readonly addGenerationPrompt?: boolean },
  ): Promise<string>;
}

/** Makes a renderer whose worker is ended after a second (`timeLimitMs`) of rendering or 32 MiB. */
export function createChatRenderer({ timeLimitMs = TIME_LIMIT_MS } = {}): ChatRenderer {
  let running: { readonly worker: Worker; readonly ready: Promise<void> } | undefined;
  let settle: { resolve(text: string): void; reject(error: Error): void } | undefined;
  const fail = (why: string) => settle?.reject(new Error(`Cannot render the chat template: ${why}; try without it`));

  const start = () => {
    // A worker of node:worker_threads, as only these can be given less memory than the process has.
    const worker = new Worker(new URL("./chat_worker.ts", import.meta.url), {
      resourceLimits: { maxOldGenerationSizeMb: MEMORY_LIMIT_MIB },
    });
    const { promise: ready, resolve: isReady, reject: isBroken } = Promise.withResolvers<void>();
    ready.catch(() => {}); // render() reports it
    worker.on("message", (reply: ChatReply) => {
      if (reply === "ready") isReady();
      else if ("error" in reply) settle?.reject(new Error(reply.error));
      else if (reply.text.length > MAX_PROMPT_CHARACTERS) fail(`it wrote ${reply.text.length} characters`);
      else settle?.resolve(reply.text);
    });
    worker.on("error", (error: Error & { readonly code?: string }) => {
      running = undefined;
      isBroken(error);
      fail(error.code === "ERR_WORKER_OUT_OF_MEMORY" ? `it needs more than ${MEMORY_LIMIT_MIB} MiB` : error.message);
    });
    return running = { worker, ready };
  };
  const stop = async () => {
    const ended = running;
    running = undefined;
    await ended?.worker.terminate();
  };

  return {
    async render(template, messages, specialTokens = {}, options = {}) {
      const { worker, ready } = running ?? start();
      await ready;
      const { promise, resolve, reject } = Promise.withResolvers<string>();
      settle = { resolve, reject };
      const timer = setTimeout(() => {
        // Deno ends a run that exceeds the memory without saying so; then this is how it shows.
        fail(`it was not done after ${timeLimitMs} ms within ${MEMORY_LIMIT_MIB} MiB`);
        void stop();
      }, timeLimitMs);
      const request: ChatRequest = {
        template,
        variables: { ...specialTokens, messages, add_generation_prompt: options.addGenerationPrompt ?? true },
      };
      worker.postMessage(request);
      return await promise.finally(() => clearTimeout(timer));
    },
    [Symbol.asyncDispose]: stop,
  };
}

/** Renders one conversation; see {@linkcode ChatRenderer.render}. */
export async function renderChat(
  template: string,
  messages: readonly ChatMessage[],
  specialTokens: Readonly<Record<string, string>> = {},
  options: { readonly addGenerationPrompt?: boolean; readonly timeLimitMs?: number } = {},
): Promise<string> {
  await using renderer = createChatRenderer(options);
  return await renderer.render(template, messages, specialTokens, options);
}
