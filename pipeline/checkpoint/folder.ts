/**
 * Files of a model directory that was written by others: names stay inside it, sizes are bounded.
 *
 * @module
 */
import { basename, dirname, isAbsolute, join, sep } from "node:path";

/** Largest config.json or generation_config.json: real ones have a few kB, those with quantization lists 1 MB. */
export const MAX_CONFIG_BYTES = 16_000_000;

/** Deepest nesting of a JSON file: tokenizer.json, the deepest in use, reaches 9. */
export const MAX_JSON_DEPTH = 64;

/** A directory whose real path is known. */
export interface Folder {
  readonly path: string;
  /** Where its files may really lie: itself, and the blobs of the hub's cache when it is a snapshot there. */
  readonly roots: readonly string[];
}

/**
 * Resolves a directory.
 *
 * @throws {Deno.errors.NotFound} when there is none.
 */
export async function openFolder(path: string): Promise<Folder> {
  const real = await Deno.realPath(path);
  // The hub's cache keeps models--org--name/snapshots/<revision>/* as links to models--org--name/blobs/*.
  const repository = dirname(dirname(real));
  const cached = basename(dirname(real)) === "snapshots" && /^models--/.test(basename(repository));
  return { path, roots: cached ? [real, join(repository, "blobs")] : [real] };
}

/**
 * The folder of a file that the user named: the file may be a link, and its folder is where it really lies.
 *
 * @returns The folder and the file's name in it.
 * @throws {Deno.errors.NotFound} when there is no such file.
 */
export async function openFolderOf(path: string): Promise<{ readonly folder: Folder; readonly name: string }> {
  const real = await Deno.realPath(path);
  return { folder: await openFolder(dirname(real)), name: basename(real) };
}

/**
 * Path of a plain file inside a folder.
 *
 * @param name Relative to the folder; forward slashes.
 * @returns The path with links resolved, or `undefined` when there is no such file.
 * @throws {RangeError} when the name, or the link that it is, leads out of the folder.
 * @throws {TypeError} when it is not a plain file (a pipe, a device, a directory).
 */
export async function resolveFile(folder: Folder, name: string): Promise<string | undefined> {
  if (
    name === "" || name.includes("\0") || isAbsolute(name) || /^[A-Za-z]:|\\/.test(name) ||
    name.split("/").includes("..")
  ) {
    throw new RangeError(`Cannot read a file outside ${folder.path}: current value is ${JSON.stringify(name)}`);
  }
  let real: string;
  try {
    real = await Deno.realPath(join(folder.path, name));
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound || cause instanceof Deno.errors.NotADirectory) return undefined;
    const why = cause instanceof Error ? cause.message.split(":")[0] : String(cause);
    throw new Error(
      `Cannot read a file in ${folder.path} (${why}): current value is ${JSON.stringify(name.slice(0, 80))}`,
      { cause },
    );
  }
  if (!folder.roots.some((root) => real.startsWith(root.endsWith(sep) ? root : root + sep))) {
    throw new RangeError(
      `Cannot read ${join(folder.path, name)} as it is a link out of its folder: current value is ${real}. ` +
        `Copy the file there instead.`,
    );
  }
  // Opening a pipe would wait for a writer that never comes.
  if (!(await Deno.stat(real)).isFile) {
    throw new TypeError(`Cannot read ${join(folder.path, name)} as it is not a plain file`);
  }
  return real;
}

/**
 * Reads a UTF-8 text file; a byte-order mark is dropped.
 *
 * @param name Relative to the folder; forward slashes.
 * @param maxBytes Largest file accepted; checked before it is read.
 * @returns The text, or `undefined` when there is no such file.
 * @throws {RangeError} when the file is larger, or leads out of the folder.
 * @throws {SyntaxError} when it is not UTF-8.
 */
export async function readTextFile(folder: Folder, name: string, maxBytes: number): Promise<string | undefined> {
  const path = await resolveFile(folder, name);
  if (path === undefined) return undefined;
  const { size } = await Deno.stat(path);
  if (size > maxBytes) {
    throw new RangeError(`Cannot read ${join(folder.path, name)} beyond ${maxBytes} bytes: current value is ${size}`);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await Deno.readFile(path));
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    throw new SyntaxError(`Cannot read ${join(folder.path, name)} as UTF-8: download it again`, { cause });
  }
}

/**
 * Reads a JSON object.
 *
 * @param maxBytes Largest file accepted; checked before it is read.
 * @returns The object, or `undefined` when there is no such file.
 * @throws {RangeError} when the file is larger, leads out of the folder, or is nested beyond {@linkcode MAX_JSON_DEPTH}.
 * @throws {SyntaxError} when it is not UTF-8, not JSON, or not an object.
 */
export async function readJsonObject(
  folder: Folder,
  name: string,
  maxBytes = MAX_CONFIG_BYTES,
): Promise<Record<string, unknown> | undefined> {
  const text = await readTextFile(folder, name, maxBytes);
  return text === undefined ? undefined : parseJsonObject(text, join(folder.path, name));
}

/**
 * Parses text that should hold a JSON object.
 *
 * @param path Where it came from, for errors.
 * @throws {RangeError} when it is nested beyond {@linkcode MAX_JSON_DEPTH}.
 * @throws {SyntaxError} when it is not JSON, or not an object.
 */
export function parseJsonObject(text: string, path: string): Record<string, unknown> {
  checkDepth(text, path);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new SyntaxError(
      `Cannot read ${path} as JSON: ${cause instanceof Error ? cause.message : cause}; download or write it again`,
      { cause },
    );
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    const kind = value === null ? "null" : Array.isArray(value) ? "an array" : `a ${typeof value}`;
    throw new SyntaxError(`Cannot read ${path} as it must hold a JSON object: current value is ${kind}`);
  }
  return value as Record<string, unknown>;
}

/** Refuses nesting that would overflow the stack of whatever walks the value; brackets inside strings do not count. */
function checkDepth(text: string, path: string): void {
  let depth = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 0x22) { // a string: to its closing quote
      for (at++; at < text.length && text.charCodeAt(at) !== 0x22; at++) if (text.charCodeAt(at) === 0x5c) at++;
    } else if (code === 0x5b || code === 0x7b) {
      if (++depth > MAX_JSON_DEPTH) {
        throw new RangeError(`Cannot read ${path} as it is nested deeper than ${MAX_JSON_DEPTH}, as no real file is`);
      }
    } else if (code === 0x5d || code === 0x7d) depth--;
  }
}
