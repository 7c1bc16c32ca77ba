/**
 * One process at a time on an output directory.
 *
 * @module
 */
import { join } from "node:path";

const LOCK_FILE = "dbf.lock";
const MAX_OWNER_BYTES = 4096; // the file holds one short JSON object

/** Who holds a lock. */
interface Owner {
  readonly pid: number;
  readonly startedAt: string;
}

/** What {@linkcode lockDirectory} found. */
export interface DirectoryLock extends Disposable {
  /** The owner that ended without releasing the lock, which was taken over. */
  readonly takenOverFrom: { readonly pid: number; readonly startedAt: string } | undefined;
  /** Releases the lock. */
  [Symbol.dispose](): void;
}

function readOwner(file: Deno.FsFile): Owner | undefined {
  const bytes = new Uint8Array(MAX_OWNER_BYTES);
  file.seekSync(0, Deno.SeekMode.Start);
  const length = file.readSync(bytes) ?? 0;
  try {
    const { pid, startedAt } = JSON.parse(new TextDecoder().decode(bytes.subarray(0, length)));
    return Number.isInteger(pid) && typeof startedAt === "string" ? { pid, startedAt } : undefined;
  } catch {
    return undefined; // empty, or its owner died while writing it
  }
}

/**
 * Locks `directory` for this process with the operating system's file lock, which ends with its owner however that dies;
 * process id and start time stand in the file for the message to others.
 *
 * @throws {Error} naming the owner's process id and start time when another process (or another run of this one) holds it.
 */
export async function lockDirectory(directory: string): Promise<DirectoryLock> {
  const path = join(directory, LOCK_FILE);
  for (;;) {
    const file = await Deno.open(path, { read: true, write: true, create: true });
    try {
      if (!await file.tryLock(true)) {
        const owner = readOwner(file);
        const who = owner === undefined ? "another process" : `process ${owner.pid}, started ${owner.startedAt}`;
        throw new Error(
          `Cannot write to ${directory} as it is in use by ${who}: wait for it or end it, or choose another directory`,
        );
      }
      // A former owner may have removed the file between open and lock: then this lock guards nothing.
      const [mine, current] = [await file.stat(), await Deno.stat(path).catch(() => undefined)];
      if (current === undefined || (mine.ino !== null && mine.ino !== current.ino)) {
        file.close();
        continue;
      }
      const takenOverFrom = readOwner(file);
      const owner: Owner = { pid: Deno.pid, startedAt: new Date().toISOString() };
      file.truncateSync(0);
      file.seekSync(0, Deno.SeekMode.Start);
      file.writeSync(new TextEncoder().encode(JSON.stringify(owner) + "\n"));
      let held = true;
      return {
        takenOverFrom,
        [Symbol.dispose]() {
          if (!held) return;
          held = false;
          try {
            Deno.removeSync(path);
          } catch {
            // the directory may be gone; the lock ends with the file
          }
          file.close();
        },
      };
    } catch (error) {
      file.close();
      throw error;
    }
  }
}
