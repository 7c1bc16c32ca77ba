/**
 * Embedding and head in fewer bits.
 *
 * @module
 */
import { GROUPS, groupsOf } from "../stream/nbits_layout.ts";
import type { ModelDescription } from "./types.ts";

/** Bits of an element: half precision, or codes with a scale a group. */
export type TableBits = 16 | 8 | 4;

/** What may be chosen. */
export const TABLE_BITS: readonly TableBits[] = [16, 8, 4];

/** Bits of the two large tables of a model; one that is absent is as everything dense. */
export interface TableOptions {
  readonly embedding?: TableBits;
  /** Of a head that is a tensor of its own; a head tied to the embedding is one table with it. */
  readonly head?: TableBits;
}

/** Columns that share a scale, the largest that divides the row: 32, which costs a bit a weight in f32, or 16. */
const MOST_COLUMNS = 32;

/**
 * Bits of tables by weight name.
 *
 * @throws {TypeError} when the head is the embedding and was given other bits.
 * @throws {RangeError} when rows cannot be divided into groups.
 */
export function tableBits(
  model: Pick<ModelDescription, "embedding" | "head" | "tiedHead" | "hiddenSize">,
  { embedding, head }: TableOptions,
): ReadonlyMap<string, TableBits> {
  if (model.tiedHead && head !== undefined && head !== embedding) {
    throw new TypeError(
      `Cannot store the head in ${head} bits and the embedding in ${
        embedding ?? "all"
      }: they are one table in this model, ` +
        `choose its bits with --embedding`,
    );
  }
  const bits = new Map<string, TableBits>();
  if (embedding !== undefined) bits.set(model.embedding, embedding);
  if (head !== undefined) bits.set(model.head, head);
  for (const [name, each] of bits) if (each < 16) tableGroup(name, model.hiddenSize);
  return bits;
}

/**
 * Columns of a table that share a scale.
 *
 * @throws {RangeError} when `cols` is no multiple of the smallest group.
 */
export function tableGroup(name: string, cols: number): number {
  const group = GROUPS.findLast((each) => each <= MOST_COLUMNS && cols % each === 0);
  if (group !== undefined) return group;
  throw new RangeError(
    `Cannot store "${name}" in fewer bits as its ${cols} columns are no multiple of ${GROUPS[0]}: leave it dense`,
  );
}

/** Bytes of a table `(rows, cols)` in an export whose scales take `scaleBytes` each. */
export function tableBytes(name: string, [rows, cols]: readonly number[], bits: TableBits, scaleBytes: number): number {
  if (bits === 16) return 2 * rows * cols;
  return rows * (cols * bits / 8 + scaleBytes * groupsOf(cols, tableGroup(name, cols)));
}
