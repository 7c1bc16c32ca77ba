/**
 * Results of long measurements, kept in files so that a bench can be run in pieces.
 *
 * @module
 */
import { join } from "node:path";
import { sha256, writeFileDurably } from "../pipeline/artefact/durable.ts";

/**
 * Returns the result that is kept under a key, or makes and keeps it.
 *
 * @param directory Of the kept results; made where it doesn't exist.
 * @param key Everything that the result depends on; it must be what JSON can hold.
 * @param make Gets a directory of its own, which is still there when it is called again after an interruption and is
 *   removed once the result is kept.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { keptResult } from "./kept_results.ts";
 *
 * const directory = await Deno.makeTempDir();
 * assertEquals(await keptResult(directory, { bits: 1 }, () => Promise.resolve(3)), 3);
 * assertEquals(await keptResult(directory, { bits: 1 }, () => Promise.reject(new Error("not again"))), 3);
 * await Deno.remove(directory, { recursive: true });
 * ```
 */
export async function keptResult<T>(
  directory: string,
  key: unknown,
  make: (workplace: string) => Promise<T>,
): Promise<T> {
  await Deno.mkdir(directory, { recursive: true });
  const place = join(directory, sha256(JSON.stringify(key)).slice(0, 24));
  const kept = await Deno.readTextFile(`${place}.json`).catch((error) => {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  });
  if (kept !== undefined) return (JSON.parse(kept) as { readonly result: T }).result;
  const result = await make(`${place}.run`);
  await writeFileDurably(`${place}.json`, JSON.stringify({ key, result }, null, 1));
  await Deno.remove(`${place}.run`, { recursive: true }).catch((error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  });
  return result;
}
