/**
 * Files of a model directory that was written by others: names stay inside it, sizes are bounded.
 *
 * @module
 */
import { basename, dirname, isAbsolute, join, sep } from "node:path";

/** Largest config.json or generation_config.json: real ones have a few kB, those with quantization lists 1 MB. */
export const MAX_CONFIG_BYTES = 16_000_000;

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
 * Reads a JSON object.
 *
 * @param maxBytes Largest file accepted; checked before it is read.
 * @returns The object, or `undefined` when there is no such file.
 * @throws {RangeError} when the file is larger.
 * @throws {SyntaxError} when it is not UTF-8, not JSON, or not an object.
 */
export async function readJsonObject(
  folder: Folder,
  name: string,
  maxBytes = MAX_CONFIG_BYTES,
): Promise<Record<string, unknown> | undefined> {
  const path = await resolveFile(folder, name);
  if (path === undefined) return undefined;
  const { size } = await Deno.stat(path);
  if (size > maxBytes) {
    throw new RangeError(`Cannot read ${join(folder.path, name)} beyond ${maxBytes} bytes: current value is ${size}`);
  }
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(await Deno.readFile(path)));
  } catch (cause) {
    throw new SyntaxError(
      `Cannot read ${join(folder.path, name)} as JSON: ${cause instanceof Error ? cause.message : cause}`,
      { cause },
    );
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new SyntaxError(`Cannot read ${join(folder.path, name)} as it must hold a JSON object`);
  }
  return value as Record<string, unknown>;
}
