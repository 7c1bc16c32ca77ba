/**
 * Results of trials in the run's working state, so that an interrupted allocation goes on where it was.
 *
 * @module
 */
import { join } from "node:path";
import { sha256 } from "../../pipeline/artefact/durable.ts";

/** Name of the file in the scratch directory; a line a result. */
const FILE = "trials.jsonl";

/** Results by key. */
export interface TrialLog {
  /**
   * The numbers that were kept under a key, or what `make` gives, which are kept.
   *
   * @param key Everything that they depend on.
   */
  result(key: unknown, make: () => Promise<readonly number[]>): Promise<readonly number[]>;
}

/**
 * Opens the log of a scratch directory. A line that a crash tore is made again.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { openTrialLog } from "./trial_log.ts";
 *
 * const scratch = await Deno.makeTempDir();
 * await (await openTrialLog(scratch)).result(["q_proj", 32], () => Promise.resolve([0.5]));
 * const again = await openTrialLog(scratch);
 * assertEquals(await again.result(["q_proj", 32], () => Promise.reject(new Error("not again"))), [0.5]);
 * await Deno.remove(scratch, { recursive: true });
 * ```
 */
export async function openTrialLog(scratch: string): Promise<TrialLog> {
  const path = join(scratch, FILE);
  const text = await Deno.readTextFile(path).catch((error) => {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  });
  const kept = new Map(text.split("\n").flatMap((line) => parse(line) ?? []));
  let torn = text !== "" && !text.endsWith("\n");
  return {
    async result(key, make) {
      const hash = sha256(JSON.stringify(key)).slice(0, 32);
      const known = kept.get(hash);
      if (known !== undefined) return known;
      const values = await make();
      kept.set(hash, values);
      const line = JSON.stringify([hash, values]);
      await Deno.writeTextFile(path, `${torn ? "\n" : ""}${line}\n`, { append: true });
      torn = false;
      return values;
    },
  };
}

function parse(line: string): [readonly [string, readonly number[]]] | undefined {
  try {
    const [hash, values] = JSON.parse(line);
    return [[hash, values]];
  } catch {
    return undefined;
  }
}
