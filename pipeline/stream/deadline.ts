/**
 * Stages that may not take for ever.
 *
 * @module
 */
import type { AnyStage } from "../recipe/exported_stages.ts";
import type { StageContext } from "./stage.ts";

/** Longest time that a timer can wait. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** What a call of a stage is about, for errors: its layer, its block, or the model. */
function subjectOf(input: unknown): string {
  const { job, block } = input as { readonly job?: { readonly name?: string }; readonly block?: number };
  if (typeof job?.name === "string") return `"${job.name}"`;
  return typeof block === "number" ? `block ${block}` : "the model";
}

/**
 * A stage each of whose calls ends after `seconds` with an error that names what it was about. Its signal aborts then; a
 * stage that still holds the event loop can only be ended from outside, which `stop` does for one in a worker.
 *
 * @param stop Ends the stage's worker.
 */
export function withDeadline(stage: AnyStage, seconds: number, stop?: (reason: Error) => void): AnyStage {
  // One function for all kinds, whose inputs differ.
  const run = stage.run as (input: unknown, options: unknown, context: StageContext) => Promise<unknown>;
  const limited: typeof run = async (input, options, context) => {
    const late = new AbortController();
    const { promise, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      const error = new Error(
        `Cannot finish ${
          subjectOf(input)
        } as the plugin's ${stage.kind} "${stage.name}" took longer than ${seconds} s: ` +
          `repair it, or give it more with --plugin-deadline; what was committed is safe, run again to resume`,
      );
      reject(error);
      late.abort(error);
      stop?.(error);
    }, Math.min(MAX_TIMER_MS, 1000 * seconds));
    const signal = AbortSignal.any([context.signal, late.signal]);
    try {
      return await Promise.race([promise, run(input, options, { ...context, signal })]);
    } finally {
      clearTimeout(timer);
    }
  };
  return { ...stage, run: limited } as AnyStage;
}
