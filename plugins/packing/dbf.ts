/**
 * Kind `dbf`: tensors `A` (signs of (n,k)) and `B` (signs of (k,m)) in the layout of kernels/layout.ts, scales `a` (n),
 * `mid` (k), `b` (m); attributes `rank`, `layout` and `weightedError`.
 *
 * @module
 */
import { LAYOUT_VERSION } from "../../kernels/layout.ts";
import type { DbfFactors } from "../../pipeline/stream/stage.ts";
import type { PackedKind } from "./kind.ts";
import { errorAttribute, errorOf, layerTensors, packMatrix, packScales } from "./tensors.ts";

/** Largest middle dimension: far beyond 16 bits a weight of the largest layers, and small enough to multiply safely. */
const MAX_RANK = 2 ** 24;

/** Packs and unpacks double-binary layers. */
export const dbfKind: PackedKind<DbfFactors> = {
  pack({ name, rows, cols, rank }, factors) {
    const sizes = [factors.A.rows, factors.A.cols, factors.B.rows, factors.B.cols];
    if (factors.rank !== rank || String(sizes) !== String([rows, rank, rank, cols])) {
      throw new RangeError(
        `Cannot pack "${name}" as its factors must be ${rows}x${rank} and ${rank}x${cols}: current value is ` +
          `${sizes[0]}x${sizes[1]} and ${sizes[2]}x${sizes[3]}`,
      );
    }
    return {
      kind: "dbf",
      attributes: { rank, layout: LAYOUT_VERSION, ...errorAttribute(factors.weightedError) },
      tensors: {
        A: packMatrix(factors.A),
        B: packMatrix(factors.B),
        a: packScales(name, "a", factors.a, [rows]),
        mid: packScales(name, "mid", factors.mid, [rank]),
        b: packScales(name, "b", factors.b, [cols]),
      },
    };
  },
  unpack(name, rows, cols, layer) {
    const { rank, layout } = layer.attributes;
    checkLayout(name, layout);
    if (typeof rank !== "number" || !Number.isInteger(rank) || rank < 1 || rank > MAX_RANK) {
      throw new RangeError(`Cannot unpack "${name}" as its rank must be 1…${MAX_RANK}: current value is ${rank}`);
    }
    const { scales, signs } = layerTensors(name, layer);
    return {
      kind: "dbf",
      rank,
      A: signs("A", rows, rank),
      B: signs("B", rank, cols),
      a: scales("a", rows),
      mid: scales("mid", rank),
      b: scales("b", cols),
      weightedError: errorOf(layer),
    };
  },
};

/** @throws {RangeError} for signs in another layout. */
export function checkLayout(name: string, layout: unknown): void {
  if (layout !== LAYOUT_VERSION) {
    throw new RangeError(`Cannot unpack "${name}" as its layout must be ${LAYOUT_VERSION}: current value is ${layout}`);
  }
}
