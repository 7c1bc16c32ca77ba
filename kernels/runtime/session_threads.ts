/**
 * How many threads of the CPU a session gets.
 *
 * @module
 */
import type { Provider } from "./types.ts";

/**
 * Threads inside an operator: the session's own setting, else the runtime's, else one a core on the CPU (`undefined` is ONNX Runtime's own
 * choice of that) and 1 on a GPU, where the CPU is left with the arithmetic of shapes and a pool a session is only threads to start and to wake.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { sessionThreads } from "./session_threads.ts";
 *
 * assertEquals(sessionThreads("cuda", undefined, undefined), 1);
 * assertEquals(sessionThreads("cpu", 4, undefined), 4);
 * ```
 */
export function sessionThreads(
  provider: Provider,
  ofRuntime: number | undefined,
  ofSession: number | undefined,
): number | undefined {
  return ofSession ?? ofRuntime ?? (provider === "cpu" ? undefined : 1);
}
