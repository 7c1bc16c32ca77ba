/**
 * Reading small JSON files of a model directory with a bound on their size.
 *
 * @module
 */
import { join } from "node:path";

/**
 * Reads and parses a JSON object from a model directory.
 *
 * @param directory Directory of the model.
 * @param name File name inside it.
 * @param maxBytes Largest size that is read.
 * @returns The object, or `undefined` when the file does not exist.
 * @throws {RangeError} when the file is larger than `maxBytes`.
 * @throws {SyntaxError} when it is not JSON, or not a JSON object.
 */
export async function readJsonFile(
  directory: string,
  name: string,
  maxBytes: number,
): Promise<Record<string, unknown> | undefined> {
  const text = await readTextFile(directory, name, maxBytes);
  if (text === undefined) return undefined;
  const path = join(directory, name);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new SyntaxError(`Cannot read "${path}" as JSON: ${(cause as Error).message}; download the file again`, {
      cause,
    });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    const kind = value === null ? "null" : Array.isArray(value) ? "an array" : `a ${typeof value}`;
    throw new SyntaxError(`Cannot read "${path}" as a JSON object: it holds ${kind}`);
  }
  return value as Record<string, unknown>;
}

/**
 * Reads a UTF-8 text file of a model directory; a byte-order mark is dropped.
 *
 * @returns The text, or `undefined` when the file does not exist.
 * @throws {RangeError} when the file is larger than `maxBytes`.
 */
export async function readTextFile(directory: string, name: string, maxBytes: number): Promise<string | undefined> {
  const path = join(directory, name);
  let size: number;
  try {
    const info = await Deno.stat(path);
    if (!info.isFile) return undefined;
    size = info.size;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
  if (size > maxBytes) {
    throw new RangeError(`Cannot read "${path}" as it has ${size} bytes: at most ${maxBytes} are read`);
  }
  return new TextDecoder().decode(await Deno.readFile(path));
}
