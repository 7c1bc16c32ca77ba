/**
 * What all roundings to groups have in common: options, size, price, checks.
 *
 * @module
 */
import * as v from "valibot";
import { nbitsStorage } from "../../../pipeline/plan/storage.ts";
import { defaultZero, GROUPS } from "../../../pipeline/stream/nbits_layout.ts";
import type { CodeBits, LayerShape, LayerStorage, StageEstimate, StageIO } from "../../../pipeline/stream/stage.ts";

/** Schema entries; spread them into a stage's options. */
export const nbitsEntries = {
  /** Bits of a code. 3-bit codes are stored in 4, as ONNX Runtime has no product for them. */
  bits: v.optional(v.picklist([2, 3, 4, 8], "must be 2, 3, 4 or 8"), 4),
  /** Columns that share a scale and a zero point. */
  group: v.optional(v.picklist(GROUPS, `must be one of ${GROUPS.join(", ")}`), 64),
  /** One zero point, the middle of the range, for all groups: nothing is stored for it (but for 3 bits), and the error is larger. */
  symmetric: v.optional(v.boolean(), false),
};

/** What {@linkcode nbitsEntries} parse to. */
export interface NbitsOptions {
  readonly bits: CodeBits;
  readonly group: number;
  readonly symmetric: boolean;
}

/** Size of a layer. */
export function nbitsStores(layer: LayerShape, { bits, group, symmetric }: NbitsOptions): LayerStorage {
  return nbitsStorage(layer, bits, group, symmetric && middle(bits) === defaultZero(bits));
}

/** The zero point of symmetric groups. */
export function middle(bits: CodeBits): number {
  return 2 ** (bits - 1);
}

/** Graphs, sessions and the space between buffers, whatever the size. */
const FIXED_BYTES = 40_000_000;
/** Rows are worked on in panels of so many elements: 16 MiB each in f32. */
export const PANEL_ELEMENTS = 2 ** 22;

/**
 * Bytes and operations of rounding in panels.
 *
 * @param buffers Panels that the graph holds at once.
 * @param passes Elementwise passes over the weight.
 */
export function roundingEstimate({ rows, cols }: LayerShape, buffers: number, passes: number): StageEstimate {
  const panel = Math.min(rows * (cols + 256), Math.max(cols + 256, PANEL_ELEMENTS));
  return { peakBytes: FIXED_BYTES + 4 * buffers * panel + 3 * rows * (cols + 256), flops: passes * rows * cols };
}

/**
 * @throws {RangeError} when the weight has not the job's shape.
 */
export function checkWeight({ job: { name, rows, cols }, weight }: StageIO["factorization"]["input"]): void {
  if (weight.shape.length !== 2 || weight.shape[0] !== rows || weight.shape[1] !== cols) {
    throw new RangeError(`Cannot factorize "${name}" as ${rows}×${cols}: its shape is [${weight.shape.join(", ")}]`);
  }
}

/**
 * @throws {RangeError} when the sum of a weight's entries is not finite, which any NaN or infinity makes it.
 */
export function checkFinite(name: string, sum: number): void {
  if (Number.isFinite(sum)) return;
  throw new RangeError(
    `Cannot factorize "${name}": it has NaN, infinite or enormous entries. Repair the checkpoint or leave the layer dense ` +
      "with --keep",
  );
}
