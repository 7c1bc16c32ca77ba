/**
 * Ends runs early when a signal aborts.
 *
 * @module
 */
import type { Environment } from "./environment.ts";
import { newWords } from "./memory.ts";
import { check } from "./status.ts";

/**
 * Calls a run that ends, before its next operator, once `signal` aborts.
 *
 * @param run Called with ONNX Runtime's run options; gives the values of the outputs that the run made.
 * @throws the signal's reason once it aborted and the run has ended.
 */
export async function withTermination<T>(
  { api }: Environment,
  signal: AbortSignal,
  run: (options: bigint) => T | Promise<T>,
): Promise<T> {
  const out = newWords(1).words;
  check(api, api.CreateRunOptions(out), "make run options");
  const options = out[0];
  const terminate = () => check(api, api.RunOptionsSetTerminate(options), "end a run");
  signal.addEventListener("abort", terminate, { once: true });
  try {
    return await run(options);
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener("abort", terminate);
    api.ReleaseRunOptions(options);
  }
}
