/**
 * allocation.json: middle dimensions of a run and why, beside the journal from the moment they are known, for people and for
 * `plan`. A run resumes from its working state, not from this file.
 *
 * @module
 */
import { join } from "node:path";
import * as v from "valibot";
import type { Allocated } from "../stream/stage.ts";
import { sha256, writeFileDurably } from "./durable.ts";
import { canonicalJson } from "./fingerprint.ts";

/** Name of the file in an output directory. */
export const ALLOCATION_FILE = "allocation.json";

/** Largest file read: 126 blocks of 7 layers at 300 bytes are 0.3 MB. */
const MAX_BYTES = 16_000_000;
const MAX_TEXT = 4096;

const Text = v.pipe(v.string(), v.maxLength(MAX_TEXT));

const AllocationFile = v.strictObject({
  format: v.literal("dbf-allocation"),
  version: v.literal(1),
  stage: Text,
  bitsPerWeight: v.pipe(v.number(), v.minValue(0), v.finite()),
  identity: Text,
  layers: v.record(
    Text,
    v.strictObject({
      rank: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
      method: v.exactOptional(Text),
      reason: Text,
    }),
  ),
});

/** What the file holds. */
export interface KeptAllocation {
  /** Name of the allocation stage. */
  readonly stage: string;
  /** Mean sign bits per weight that were asked for, or found for a size. */
  readonly bitsPerWeight: number;
  /** Hash of what decided it: checkpoint, budget, selection, importance and allocation with their options, calibration, seed. */
  readonly identity: string;
  /** By weight name. */
  readonly layers: Allocated;
}

/** {@linkcode KeptAllocation.identity} of plain data. */
export function allocationIdentity(parts: Readonly<Record<string, unknown>>): string {
  return sha256(canonicalJson(JSON.parse(JSON.stringify(parts)))).slice(0, 32);
}

/** Writes the file, in one step. */
export async function writeAllocation(directory: string, { layers, ...rest }: KeptAllocation): Promise<void> {
  const content = { format: "dbf-allocation", version: 1, ...rest, layers: Object.fromEntries(layers) };
  await writeFileDurably(join(directory, ALLOCATION_FILE), JSON.stringify(content, null, 1) + "\n");
}

/**
 * Reads the file, which may be anybody's.
 *
 * @returns `undefined` where there is none.
 * @throws {TypeError} when it is not one, naming the field.
 * @throws {RangeError} when it is too large.
 */
export async function readAllocation(directory: string): Promise<KeptAllocation | undefined> {
  const path = join(directory, ALLOCATION_FILE);
  const info = await Deno.stat(path).catch(() => undefined);
  if (!info?.isFile) return undefined;
  if (info.size > MAX_BYTES) {
    throw new RangeError(`Cannot read ${path} of more than ${MAX_BYTES} bytes: current value is ${info.size}`);
  }
  let value: unknown;
  try {
    value = JSON.parse(await Deno.readTextFile(path));
  } catch (cause) {
    throw new TypeError(`Cannot read ${path} as JSON: remove it, or compress again`, { cause });
  }
  const parsed = v.safeParse(AllocationFile, value, { abortEarly: true });
  if (!parsed.success) {
    const [issue] = parsed.issues;
    throw new TypeError(
      `Cannot read ${path} as an allocation: field "${v.getDotPath(issue) ?? ""}": ${issue.message.slice(0, 300)}`,
    );
  }
  const { stage, bitsPerWeight, identity, layers } = parsed.output;
  return { stage, bitsPerWeight, identity, layers: new Map(Object.entries(layers)) };
}
