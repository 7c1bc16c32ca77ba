/**
 * The journal: what was committed, one checked JSON line each, appended and synced.
 *
 * @module
 */
import * as v from "valibot";
import { sha256 } from "./durable.ts";
import { canonicalJson } from "./fingerprint.ts";

/** Name of the journal in an artefact's directory. */
export const JOURNAL_FILE = "journal.jsonl";

/** Largest journal read: 126 layers × 11 tensors × 100 generations of 1 kB lines are 140 MB. */
const MAX_JOURNAL_BYTES = 256 << 20;

const Sha256 = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/));
const Count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const Attributes = v.record(v.string(), v.union([v.string(), v.number(), v.boolean()]));

/** First line: which run this is. */
export const RunLine = v.strictObject({
  type: v.literal("run"),
  version: v.literal(1),
  fingerprint: v.record(v.string(), v.unknown()),
});

/** A tensor or layer was committed. */
export const CommitLine = v.strictObject({
  type: v.literal("commit"),
  name: v.string(),
  kind: v.string(),
  shape: v.array(Count),
  generation: Count,
  file: v.string(),
  bytes: Count,
  /** Of the file. */
  sha256: Sha256,
  attributes: Attributes,
  /** Content hash of the checkpoint's tensor that it was made from. */
  source: Sha256,
});

/** A piece of working state was saved. */
export const StateLine = v.strictObject({
  type: v.literal("state"),
  name: v.string(),
  file: v.string(),
  sha256: Sha256,
});

/** A target was written. */
export const ExportLine = v.strictObject({ type: v.literal("export"), target: v.string(), directory: v.string() });

const Line = v.variant("type", [RunLine, CommitLine, StateLine, ExportLine]);

/** One line of a journal. */
export type JournalLine = v.InferOutput<typeof Line>;
/** See {@linkcode CommitLine}. */
export type CommitRecord = v.InferOutput<typeof CommitLine>;
/** See {@linkcode StateLine}. */
export type StateRecord = v.InferOutput<typeof StateLine>;

/** A journal as read. */
export interface JournalContent {
  readonly lines: readonly JournalLine[];
  /** Bytes of the file that are good; what follows is a line torn by a crash. */
  readonly goodBytes: number;
  readonly torn: boolean;
}

const CHECK_DIGITS = 16;

/** Writes a line with its check: the first 16 digits of SHA-256 over the line without it. */
export function encodeLine(line: JournalLine): string {
  const body = canonicalJson(line);
  return `${body.slice(0, -1)},"check":"${sha256(body).slice(0, CHECK_DIGITS)}"}\n`;
}

function decodeLine(text: string): JournalLine | undefined {
  const match = text.match(/^(.*),"check":"([0-9a-f]{16})"\}$/);
  if (match === null || sha256(match[1] + "}").slice(0, CHECK_DIGITS) !== match[2]) return undefined;
  const parsed = v.safeParse(Line, JSON.parse(match[1] + "}"));
  return parsed.success ? parsed.output : undefined;
}

/**
 * Reads a journal. A damaged last line is what a crash leaves and is reported as torn; a damaged line elsewhere is not.
 *
 * @throws {RangeError} when the file is larger than any real journal.
 * @throws {Error} when a line before the last is damaged or the first is not a run.
 */
export async function readJournal(path: string): Promise<JournalContent> {
  const { size } = await Deno.stat(path);
  if (size > MAX_JOURNAL_BYTES) {
    throw new RangeError(
      `Cannot read ${path} as a journal of at most ${MAX_JOURNAL_BYTES} bytes: current value is ${size}`,
    );
  }
  const bytes = await Deno.readFile(path);
  const decoder = new TextDecoder();
  const lines: JournalLine[] = [];
  let start = 0;
  while (start < bytes.length) {
    const end = bytes.indexOf(10, start);
    const line = end < 0 ? undefined : decodeLine(decoder.decode(bytes.subarray(start, end)));
    if (line === undefined) {
      if (end < 0 || end === bytes.length - 1) break;
      throw new Error(
        `Cannot resume from ${path} as line ${lines.length + 1} is damaged: use --restart to begin anew`,
      );
    }
    if ((line.type === "run") !== (lines.length === 0)) {
      throw new Error(`Cannot resume from ${path} as its run is not described by the first line: use --restart`);
    }
    lines.push(line);
    start = end + 1;
  }
  return { lines, goodBytes: start, torn: start < bytes.length };
}

/** Appends lines to a journal; each is on disk when the promise resolves. */
export interface JournalWriter extends Disposable {
  append(line: JournalLine): Promise<void>;
  [Symbol.dispose](): void;
}

/** Opens a journal for appending after its first `goodBytes` bytes; what follows them is cut off. */
export async function openJournalWriter(path: string, goodBytes: number): Promise<JournalWriter> {
  const file = await Deno.open(path, { write: true, create: true });
  await file.truncate(goodBytes);
  await file.seek(goodBytes, Deno.SeekMode.Start);
  await file.sync();
  return {
    async append(line) {
      const bytes = new TextEncoder().encode(encodeLine(line));
      for (let done = 0; done < bytes.byteLength;) done += await file.write(bytes.subarray(done));
      await file.sync();
    },
    [Symbol.dispose]: () => file.close(),
  };
}
