/**
 * Which errors are the user's and which are the run's: exit codes 2 and 1.
 *
 * @module
 */

/** Exit codes that scripts rely on. */
export const EXIT = { done: 0, failed: 1, usage: 2, interrupted: 130 } as const;

/** Errors that come from what the user gave: bad flags, missing files, damaged input. */
const inputErrors = new WeakSet<object>();

/**
 * An error about how a command was called.
 *
 * @param message What is wrong and a way out.
 */
export function usageError(message: string): Error {
  const error = new TypeError(message);
  inputErrors.add(error);
  return error;
}

/** Marks an error as the user's input's, so that it exits with 2. */
export function markAsInput(error: unknown): unknown {
  if (typeof error === "object" && error !== null) inputErrors.add(error);
  return error;
}

/**
 * Runs what only reads and checks input; what it throws exits with 2.
 *
 * @param body Opens, reads or checks something that the user named.
 */
export async function whileReadingInput<T>(body: () => T | Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    throw markAsInput(error);
  }
}

/** Exit code of an error. */
export function exitCodeOf(error: unknown): number {
  return typeof error === "object" && error !== null && inputErrors.has(error) ? EXIT.usage : EXIT.failed;
}

/** One message for people: the error's own, and its causes' where they say something new. */
export function messageOf(error: unknown): string {
  const parts: string[] = [];
  for (let current: unknown = error, depth = 0; current !== undefined && depth < 4; depth++) {
    const message = current instanceof Error ? current.message || current.name : String(current);
    if (!parts.some((part) => part.includes(message))) parts.push(message);
    current = current instanceof Error ? current.cause : undefined;
  }
  return parts.join("\n  because: ");
}
