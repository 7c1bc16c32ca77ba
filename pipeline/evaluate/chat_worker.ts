/**
 * Renders one chat template in a worker, so that an endless template can be ended.
 *
 * @module
 */
import { renderTemplate } from "./render_template.ts";

/** What the worker is sent. */
export interface ChatRequest {
  /** Jinja source. */
  readonly template: string;
  /** Variables of the template. */
  readonly variables: Readonly<Record<string, unknown>>;
}

/** What it answers. */
export type ChatReply = { readonly text: string } | { readonly error: string };

// The scope of a worker, which the compiler only knows as a window.
const scope = self as unknown as {
  onmessage: ((event: MessageEvent<ChatRequest>) => void) | null;
  postMessage(reply: ChatReply): void;
};

scope.onmessage = ({ data }) => {
  try {
    scope.postMessage({ text: renderTemplate(data.template, data.variables) });
  } catch (error) {
    scope.postMessage({ error: (error as Error).message });
  }
};
