/**
 * Files that are either there in full or not at all, also after a power cut.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { dirname } from "node:path";

/** Ending of files that are being written; whatever has it after a crash may be deleted. */
export const TEMPORARY_SUFFIX = ".tmp";

/**
 * Makes renames and removals in a directory survive a power cut. Where directories cannot be opened (Windows) this does
 * nothing.
 */
export async function syncDirectory(path: string): Promise<void> {
  if (Deno.build.os === "windows") return;
  using directory = await Deno.open(path, { read: true });
  await directory.sync();
}

/** Renames a written and synced file into place and syncs the directory. */
export async function moveIntoPlace(temporary: string, path: string): Promise<void> {
  await Deno.rename(temporary, path);
  await syncDirectory(dirname(path));
}

/**
 * Replaces a small file in one step: temporary file, sync, rename, sync of the directory.
 *
 * @throws {Error} from the file system; the old file is then unharmed.
 */
export async function writeFileDurably(path: string, content: Uint8Array | string): Promise<void> {
  const temporary = path + TEMPORARY_SUFFIX;
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  try {
    using file = await Deno.open(temporary, { write: true, create: true, truncate: true });
    for (let done = 0; done < bytes.byteLength;) done += await file.write(bytes.subarray(done));
    await file.sync();
  } catch (cause) {
    await Deno.remove(temporary).catch(() => {});
    throw cause;
  }
  await moveIntoPlace(temporary, path);
}

/** A file's bytes; `undefined` where there is no file. */
export async function readFileIfThere(path: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
  try {
    return await Deno.readFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** SHA-256 in lower-case hexadecimal of text or bytes. */
export function sha256(content: Uint8Array | string): string {
  return createHash("sha256").update(content).digest("hex");
}

const HASH_CHUNK_BYTES = 1 << 20; // large enough for full disk speed, small beside any lease

/** SHA-256 of a file, read in chunks. */
export async function sha256File(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  using file = await Deno.open(path, { read: true });
  const chunk = new Uint8Array(HASH_CHUNK_BYTES);
  for (let got = await file.read(chunk); got !== null; got = await file.read(chunk)) {
    signal?.throwIfAborted();
    hash.update(chunk.subarray(0, got));
  }
  return hash.digest("hex");
}
