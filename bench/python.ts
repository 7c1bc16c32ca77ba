/**
 * Peers in Python.
 *
 * @module
 */
import { fileURLToPath } from "node:url";

/**
 * Runs a script of `bench/peers`.
 *
 * @param python Command of a Python that has what the script imports.
 * @returns What the script printed.
 * @throws {Error} with what it printed as errors when it fails.
 */
export async function runPeer(python: string, script: string, args: readonly string[]): Promise<string> {
  const path = fileURLToPath(new URL(`./peers/${script}`, import.meta.url));
  const { success, stdout, stderr } = await new Deno.Command(python, { args: [path, ...args] }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
  if (!success) throw new Error(`Cannot run ${script} with ${python}: ${text(stderr)}`);
  return text(stdout);
}
