/**
 * Ranged reads from one file through one shared handle, opened on first use.
 *
 * @module
 */

/** A file of weights. Reads of one file queue up behind each other, since they share its position. */
export interface ShardFile extends Disposable {
  readonly path: string;
  /**
   * Fills `target` with the bytes from `position` on.
   *
   * @param what Whose bytes they are, for errors.
   * @throws {Error} when the file ends early, has vanished, or is another than at its first read (size, time of change).
   */
  readInto(target: Uint8Array, position: number, what: string, signal?: AbortSignal): Promise<void>;
}

/** Most files held open at once by one reader: shells commonly allow a process 1024; a 671B checkpoint has 163 shards. */
export const MAX_OPEN_FILES = 64;

/** What tells that a file was changed or replaced; `undefined` for one that is gone. */
type FileState = Pick<Deno.FileInfo, "size" | "mtime" | "ino"> | undefined;

const stateOf = (path: string): Promise<FileState> => Deno.stat(path).catch(() => undefined);

function describeChange(first: FileState, now: FileState): string | undefined {
  if (now === undefined) return "vanished";
  if (now.size < (first?.size ?? 0)) return `was cut from ${first!.size} to ${now.size} bytes`;
  if (now.ino !== first?.ino) return "was replaced";
  return now.size !== first?.size || now.mtime?.getTime() !== first?.mtime?.getTime() ? "was changed" : undefined;
}

/** The handles of one reader, in order of use; the oldest idle one is closed where too many are open. */
export interface ShardPool extends Disposable {
  file(path: string): ShardFile;
}

/** Makes a pool that keeps at most `limit` files open. */
export function createShardPool(limit = MAX_OPEN_FILES): ShardPool {
  const open = new Map<string, { readonly handle: Deno.FsFile; users: number }>();
  const files = new Map<string, ShardFile>();
  let closed = false;

  const closeIdle = (): void => {
    for (const [path, entry] of open) {
      if (open.size < limit) return;
      if (entry.users > 0) continue;
      open.delete(path);
      entry.handle.close();
    }
  };
  const acquire = async (path: string): Promise<{ readonly handle: Deno.FsFile; users: number }> => {
    if (closed) throw new Error(`Cannot read ${path} as its checkpoint was closed`);
    let entry = open.get(path);
    if (entry === undefined) {
      closeIdle();
      const handle = await Deno.open(path, { read: true });
      if (closed) {
        handle.close();
        throw new Error(`Cannot read ${path} as its checkpoint was closed`);
      }
      entry = { handle, users: 0 };
    } else {
      open.delete(path);
    }
    open.set(path, entry);
    entry.users++;
    return entry;
  };

  const makeFile = (path: string): ShardFile => {
    let queue: Promise<unknown> = Promise.resolve();
    let first: FileState | undefined;
    const read = async (target: Uint8Array, position: number, what: string): Promise<void> => {
      let done = 0;
      try {
        const entry = await acquire(path);
        try {
          await entry.handle.seek(position, Deno.SeekMode.Start);
          while (done < target.byteLength) {
            const count = await entry.handle.read(target.subarray(done));
            if (count === null || count === 0) break;
            done += count;
          }
        } finally {
          entry.users--;
          if (closed && entry.users === 0) entry.handle.close();
        }
      } catch (cause) {
        throw new Error(`Cannot read ${what} from ${path}: ${cause instanceof Error ? cause.message : cause}`, {
          cause,
        });
      }
      // The open handle would go on reading a file that was removed or replaced.
      const now = await stateOf(path);
      first ??= now;
      const difference = describeChange(first, now);
      if (difference !== undefined) {
        throw new Error(
          `Cannot read ${what} from ${path} as it ${difference} while it was in use: put the file back as it was, and ` +
            `run again`,
        );
      }
      if (done < target.byteLength) {
        throw new Error(
          `Cannot read ${what} from ${path} as the file is shorter than its header promised: ` +
            `current value is ${done} of ${target.byteLength} bytes at ${position}. ` +
            `It was cut or changed: download it again.`,
        );
      }
    };
    return {
      path,
      readInto(target, position, what, signal) {
        const turn = queue.then(() => {
          signal?.throwIfAborted();
          return read(target, position, what);
        });
        queue = turn.catch(() => {});
        return turn;
      },
      [Symbol.dispose]() {
        const entry = open.get(path);
        if (entry === undefined || entry.users > 0) return;
        open.delete(path);
        entry.handle.close();
      },
    };
  };

  return {
    file(path) {
      let file = files.get(path);
      if (file === undefined) files.set(path, file = makeFile(path));
      return file;
    },
    [Symbol.dispose]() {
      if (closed) return;
      closed = true;
      // A handle in use is closed by the read that uses it.
      for (const { handle, users } of open.values()) if (users === 0) handle.close();
      open.clear();
    },
  };
}
