/**
 * Renders chat templates in a worker, so that an endless or insatiable template can be ended.
 *
 * @module
 */
import { parentPort } from "node:worker_threads";
import { renderTemplate } from "./render_template.ts";

/** What the worker is sent. */
export interface ChatRequest {
  /** Jinja source. */
  readonly template: string;
  /** Variables of the template. */
  readonly variables: Readonly<Record<string, unknown>>;
}

/** What it says: that it is loaded, then one answer a request. */
export type ChatReply = "ready" | { readonly text: string } | { readonly error: string };

function answer({ template, variables }: ChatRequest): ChatReply {
  try {
    return { text: renderTemplate(template, variables) };
  } catch (error) {
    return { error: (error as Error).message };
  }
}

parentPort?.on("message", (request: ChatRequest) => parentPort!.postMessage(answer(request)));
parentPort?.postMessage("ready" satisfies ChatReply);
