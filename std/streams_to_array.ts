/**
 * `@std/streams/to-array` for machines that cannot reach JSR.
 *
 * @module
 */

/** Collects every chunk of `stream`. */
export async function toArray<T>(stream: ReadableStream<T>): Promise<T[]> {
  return await Array.fromAsync(stream);
}
