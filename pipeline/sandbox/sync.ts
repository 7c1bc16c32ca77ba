/**
 * Answers that one side waits for without giving its thread back: they are written into shared memory.
 *
 * @module
 */

/** Bytes before the JSON of an answer: a flag that it is there, and its length, or -1 where it did not fit. */
const HEADER_BYTES = 8;

/** Shared memory with room for an answer of `bytes` of JSON. */
export function answerMemory(bytes: number): SharedArrayBuffer {
  return new SharedArrayBuffer(HEADER_BYTES + bytes);
}

/** Writes what `body` returns, or throws, where the other side waits for it. */
export function answerInto(memory: SharedArrayBuffer, body: () => unknown): void {
  const [flag, length] = [new Int32Array(memory, 0, 1), new Int32Array(memory, 4, 1)];
  let text: string;
  try {
    text = JSON.stringify({ value: body() });
  } catch (error) {
    text = JSON.stringify({ error: error instanceof Error ? error.message : String(error) });
  }
  const bytes = new TextEncoder().encode(text);
  const room = new Uint8Array(memory, HEADER_BYTES);
  length[0] = bytes.length <= room.length ? bytes.length : -1;
  if (length[0] >= 0) room.set(bytes);
  Atomics.store(flag, 0, 1);
  Atomics.notify(flag, 0);
}

/**
 * Holds this thread until the answer is there.
 *
 * @param limitMs Longest wait.
 * @param what Who is asked for what, for errors.
 * @throws {Error} when it takes too long, does not fit, or was an error.
 */
export function waitForAnswer(memory: SharedArrayBuffer, limitMs: number, what: string): unknown {
  const outcome = Atomics.wait(new Int32Array(memory, 0, 1), 0, 0, limitMs);
  const length = new Int32Array(memory, 4, 1)[0];
  if (outcome === "timed-out" || length < 0) {
    const why = outcome === "timed-out" ? `no answer came in ${limitMs / 1000} s` : "the answer is too long";
    throw new Error(`Cannot use ${what} as ${why}: repair the plugin`);
  }
  const text = new TextDecoder().decode(new Uint8Array(memory, HEADER_BYTES, length).slice());
  const { value, error } = JSON.parse(text) as { readonly value?: unknown; readonly error?: string };
  if (error !== undefined) throw new Error(`Cannot use ${what}: ${error}`);
  return value;
}
