/**
 * Renders one chat template in a worker, so that an endless or insatiable template can be ended.
 *
 * @module
 */
import { parentPort, workerData } from "node:worker_threads";
import { renderTemplate } from "./render_template.ts";

/** What the worker is started with. */
export interface ChatRequest {
  /** Jinja source. */
  readonly template: string;
  /** Variables of the template. */
  readonly variables: Readonly<Record<string, unknown>>;
}

/** What it answers. */
export type ChatReply = { readonly text: string } | { readonly error: string };

function reply({ template, variables }: ChatRequest): ChatReply {
  try {
    return { text: renderTemplate(template, variables) };
  } catch (error) {
    return { error: (error as Error).message };
  }
}

parentPort?.postMessage(reply(workerData));
