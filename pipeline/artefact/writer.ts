/**
 * Writes an artefact so that whatever was committed survives anything: temporary file, sync, rename, journal line.
 *
 * @module
 */
import { basename, join } from "node:path";
import type { CheckpointReader } from "../checkpoint/types.ts";
import type { PackedLayer } from "../stream/stage.ts";
import { ALLOCATION_FILE } from "./allocation_file.ts";
import { startContentHash } from "./content_hash.ts";
import { moveIntoPlace, sha256, sha256File, syncDirectory, TEMPORARY_SUFFIX, writeFileDurably } from "./durable.ts";
import { denseEntries, packedEntries, writeEntryFile } from "./entry_file.ts";
import { canonicalJson, describeDifferences, type Fingerprint, fingerprintDifferences } from "./fingerprint.ts";
import {
  type CommitRecord,
  JOURNAL_FILE,
  type JournalContent,
  type JournalLine,
  openJournalWriter,
  readJournal,
  type StateRecord,
} from "./journal.ts";
import { lockDirectory } from "./lock.ts";
import { LAYERS_FOLDER, MANIFEST_FILE, MANIFEST_VERSION, type ManifestContent } from "./manifest.ts";
import { entryFileName } from "./names.ts";

/** Working state inside the output directory; deleting it costs time, not results. */
const SCRATCH_FOLDER = ".work";

/** Moments of a commit at which a crash leaves different things behind. */
export type CommitStep = "written" | "renamed" | "journalled";

/** How {@linkcode openArtefactWriter} goes about it. */
export interface ArtefactWriterOptions {
  readonly fingerprint: Fingerprint;
  /** Throw away what is there. Default false. */
  readonly restart?: boolean;
  /** Called at every step of a commit, with the entry's name; tests throw here to play a crash. */
  readonly onStep?: (step: CommitStep, name: string) => void;
}

/** An artefact being written by this process alone. */
export interface ArtefactWriter extends Disposable {
  readonly directory: string;
  /** Directory for working state. */
  readonly scratch: string;
  /** Newest committed generation of every entry, by name. */
  readonly committed: ReadonlyMap<string, CommitRecord>;
  /** What was put right: an owner that died holding the lock, a torn last line of the journal, entries whose file was damaged. */
  readonly recovered: { readonly deadOwner?: number; readonly tornLine: boolean; readonly damaged: readonly string[] };
  /** Targets written by this run, by name. */
  readonly exports: ReadonlyMap<string, string>;
  /**
   * Commits the next generation of a layer.
   *
   * @param shape Of the weight that it stands for.
   * @param source Content hash of the weight.
   */
  commitLayer(
    name: string,
    shape: readonly number[],
    layer: PackedLayer,
    source: string,
    signal?: AbortSignal,
  ): Promise<CommitRecord>;
  /** Copies a tensor of the checkpoint as it is, in chunks. */
  commitDense(checkpoint: CheckpointReader, name: string, signal?: AbortSignal): Promise<CommitRecord>;
  /** Path of a committed entry's file. */
  path(record: Pick<CommitRecord, "file">): string;
  /** Saves a piece of working state under `name`; it survives crashes. */
  saveState(name: string, content: Uint8Array): Promise<void>;
  /** The piece as saved; `undefined` when it was never saved, or its file was deleted or damaged. */
  loadState(name: string): Promise<Uint8Array | undefined>;
  /** Copies companions and writes config.json and the manifest; the artefact can be opened from now on. */
  finish(manifest: {
    readonly architecture: string;
    readonly blocks?: readonly [number, number];
    readonly config: Readonly<Record<string, unknown>>;
    /** Absolute paths. */
    readonly companions: readonly string[];
  }): Promise<void>;
  /** Records that a target was written to `directory`. */
  recordExport(target: string, directory: string): Promise<void>;
  /** Deletes the working state. */
  removeScratch(): Promise<void>;
  /** Closes the journal and releases the lock. */
  [Symbol.dispose](): void;
}

async function exists(path: string): Promise<boolean> {
  return await Deno.lstat(path).then(() => true, () => false);
}

/** Removes what an earlier run left in `directory`, and nothing else. */
async function clear(directory: string): Promise<void> {
  for (const name of [MANIFEST_FILE, JOURNAL_FILE, ALLOCATION_FILE, LAYERS_FOLDER, SCRATCH_FOLDER]) {
    await Deno.remove(join(directory, name), { recursive: true }).catch((error) => {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    });
  }
}

async function readOldJournal(directory: string, fingerprint: Fingerprint): Promise<JournalContent | undefined> {
  const path = join(directory, JOURNAL_FILE);
  if (!await exists(path)) {
    if (await exists(join(directory, MANIFEST_FILE))) {
      throw new Error(
        `Cannot write to ${directory} as it holds an artefact without a journal: use --restart to replace it, or ` +
          `another directory`,
      );
    }
    return undefined;
  }
  const journal = await readJournal(path);
  const [first] = journal.lines;
  if (first?.type !== "run") return undefined;
  const differences = fingerprintDifferences(first.fingerprint, JSON.parse(JSON.stringify(fingerprint)));
  if (differences.length > 0) throw new Error(describeDifferences(directory, differences));
  return journal;
}

/**
 * Opens `directory` for a run: locks it, reads the journal of an interrupted run with the same fingerprint, removes what
 * was never committed.
 *
 * @throws {Error} when another process works there; when the fingerprint differs, naming the fields; when the journal
 * is damaged.
 */
export async function openArtefactWriter(directory: string, options: ArtefactWriterOptions): Promise<ArtefactWriter> {
  await Deno.mkdir(join(directory, LAYERS_FOLDER), { recursive: true });
  const lock = await lockDirectory(directory);
  try {
    if (options.restart) await clear(directory);
    const journal = await readOldJournal(directory, options.fingerprint);
    const scratch = join(directory, SCRATCH_FOLDER);
    await Deno.mkdir(join(directory, LAYERS_FOLDER), { recursive: true });
    await Deno.mkdir(scratch, { recursive: true });

    const committed = new Map<string, CommitRecord>();
    const states = new Map<string, StateRecord>();
    const exports = new Map<string, string>();
    const remember = (line: JournalLine) => {
      if (line.type === "commit") committed.set(line.name, line);
      else if (line.type === "state") states.set(line.name, line);
      else if (line.type === "export") exports.set(line.target, line.directory);
    };
    journal?.lines.forEach(remember);
    const damaged = await dropDamaged(directory, committed);
    await removeStray(join(directory, LAYERS_FOLDER), new Set([...committed.values()].map(({ file }) => file)));

    const lines = await openJournalWriter(join(directory, JOURNAL_FILE), journal?.goodBytes ?? 0);
    const append = async (line: JournalLine) => {
      await lines.append(line);
      remember(line);
    };
    try {
      if (journal === undefined) {
        await append({ type: "run", version: 1, fingerprint: { ...options.fingerprint } });
        await syncDirectory(directory);
      }
    } catch (error) {
      lines[Symbol.dispose]();
      throw error;
    }
    return makeWriter({
      directory,
      scratch,
      committed,
      states,
      exports,
      append,
      step: options.onStep ?? (() => {}),
      recovered: { deadOwner: lock.takenOverFrom?.pid, tornLine: journal?.torn ?? false, damaged },
      close() {
        lines[Symbol.dispose]();
        lock[Symbol.dispose]();
      },
    });
  } catch (error) {
    lock[Symbol.dispose]();
    throw error;
  }
}

/**
 * Forgets commits whose file is gone or has other content than was committed, so that they are made again.
 *
 * @returns Their names.
 */
async function dropDamaged(directory: string, committed: Map<string, CommitRecord>): Promise<string[]> {
  const damaged: string[] = [];
  for (const [name, { file, sha256: expected }] of [...committed]) {
    const found = await sha256File(join(directory, LAYERS_FOLDER, basename(file))).catch(() => undefined);
    if (found === expected) continue;
    damaged.push(name);
    committed.delete(name);
  }
  return damaged;
}

async function removeStray(folder: string, wanted: ReadonlySet<string>): Promise<void> {
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    if (!isDirectory && !wanted.has(name)) await Deno.remove(join(folder, name));
  }
}

interface WriterParts {
  readonly directory: string;
  readonly scratch: string;
  readonly committed: Map<string, CommitRecord>;
  readonly states: ReadonlyMap<string, StateRecord>;
  readonly exports: ReadonlyMap<string, string>;
  readonly recovered: ArtefactWriter["recovered"];
  readonly append: (line: JournalLine) => Promise<void>;
  readonly step: (step: CommitStep, name: string) => void;
  readonly close: () => void;
}

function makeWriter(parts: WriterParts): ArtefactWriter {
  const { directory, scratch, committed, states, append, step } = parts;
  const folder = join(directory, LAYERS_FOLDER);
  const statePath = (name: string) => join(scratch, `${sha256(name).slice(0, 32)}.state`);

  const commit = async (
    record: Omit<CommitRecord, "type" | "generation" | "file" | "bytes" | "sha256" | "source">,
    write: (temporary: string, file: string) => Promise<{ bytes: number; sha256: string; source: string }>,
  ): Promise<CommitRecord> => {
    const before = committed.get(record.name);
    const generation = before === undefined ? 0 : before.generation + 1;
    const file = entryFileName(record.name, generation);
    const path = join(folder, file);
    const temporary = path + TEMPORARY_SUFFIX;
    try {
      const written = await write(temporary, file);
      step("written", record.name);
      await moveIntoPlace(temporary, path);
      step("renamed", record.name);
      const line: CommitRecord = { type: "commit", ...record, generation, file, ...written };
      await append(line);
      step("journalled", record.name);
      if (before !== undefined) await Deno.remove(join(folder, before.file)).catch(() => {});
      return line;
    } catch (cause) {
      if (cause instanceof Error && cause.name === "AbortError") throw cause;
      throw new Error(
        `Cannot commit "${record.name}" to ${path}: ${cause instanceof Error ? cause.message : cause}; ` +
          `what was committed before is safe: make room and run again to resume`,
        { cause },
      );
    }
  };

  return {
    directory,
    scratch,
    committed,
    exports: parts.exports,
    recovered: parts.recovered,
    path: ({ file }) => join(folder, basename(file)),
    commitLayer: (name, shape, layer, source, signal) =>
      commit({ name, kind: layer.kind, shape: [...shape], attributes: { ...layer.attributes } }, async (temporary) => ({
        ...await writeEntryFile(temporary, packedEntries(layer), { name, kind: layer.kind }, signal),
        source,
      })),
    commitDense(checkpoint, name, signal) {
      const handle = checkpoint.tensor(name);
      return commit({ name, kind: "dense", shape: [...handle.shape], attributes: {} }, async (temporary) => {
        const hash = startContentHash(checkpoint, name);
        const written = await writeEntryFile(
          temporary,
          denseEntries(handle, hash.update),
          { name, kind: "dense" },
          signal,
        );
        return { ...written, source: await hash.finish() };
      });
    },
    async saveState(name, content) {
      const path = statePath(name);
      await writeFileDurably(path, content);
      await append({ type: "state", name, file: basename(path), sha256: sha256(content) });
    },
    async loadState(name) {
      const record = states.get(name);
      if (record === undefined) return undefined;
      const content = await Deno.readFile(statePath(name)).catch(() => undefined);
      return content !== undefined && sha256(content) === record.sha256 ? content : undefined;
    },
    async finish({ architecture, blocks, config, companions }) {
      for (const path of companions) await copyDurably(path, join(directory, basename(path)));
      await writeFileDurably(join(directory, "config.json"), JSON.stringify(config, null, 2) + "\n");
      const [first] = (await readJournal(join(directory, JOURNAL_FILE))).lines;
      const manifest: ManifestContent = {
        format: "dbf-artefact",
        version: MANIFEST_VERSION,
        architecture,
        ...(blocks === undefined ? {} : { blocks: [blocks[0], blocks[1]] }),
        companions: companions.map((path) => basename(path)).sort(),
        fingerprint: first.type === "run" ? first.fingerprint : {},
        entries: [...committed.values()]
          .sort((a, b) => a.name < b.name ? -1 : 1)
          .map(({ type: _type, source: _source, ...entry }) => entry),
      };
      await writeFileDurably(
        join(directory, MANIFEST_FILE),
        JSON.stringify(JSON.parse(canonicalJson(manifest)), null, 1) + "\n",
      );
    },
    recordExport: (target, path) => append({ type: "export", target, directory: path }),
    async removeScratch() {
      await Deno.remove(scratch, { recursive: true }).catch(() => {});
    },
    [Symbol.dispose]: parts.close,
  };
}

async function copyDurably(from: string, to: string): Promise<void> {
  const [source, target] = [await Deno.realPath(from), await Deno.realPath(to).catch(() => undefined)];
  if (source === target) return;
  const temporary = to + TEMPORARY_SUFFIX;
  await Deno.copyFile(from, temporary);
  {
    using file = await Deno.open(temporary, { read: true, write: true });
    await file.sync();
  }
  await moveIntoPlace(temporary, to);
}
