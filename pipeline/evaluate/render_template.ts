/**
 * Jinja, interpreted.
 *
 * @module
 */
import { Template } from "@huggingface/jinja";

/**
 * Renders a template here and now; {@linkcode renderChat} does it in a worker that can be ended.
 *
 * @param template Jinja source.
 * @param variables By name.
 * @throws {Error} with the template's own error, or the interpreter's.
 */
export function renderTemplate(template: string, variables: Readonly<Record<string, unknown>>): string {
  try {
    return new Template(template).render({ ...variables });
  } catch (cause) {
    throw new Error(`Cannot render the chat template: ${(cause as Error).message}; try without it`, { cause });
  }
}
