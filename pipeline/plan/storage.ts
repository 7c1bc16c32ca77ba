/**
 * What factorized layers are stored as, by kind.
 *
 * @module
 */
import { packedBytes } from "../../kernels/layout.ts";
import type { ArtefactEntry } from "../artefact/types.ts";
import type { CodeBits } from "../stream/factors.ts";
import { codeBytes, groupsOf, zeroRowBytes } from "../stream/nbits_layout.ts";
import type { LayerStorage } from "../stream/stage.ts";
import { signBytes, type WeightShape } from "./bits.ts";

type Shape = Pick<WeightShape, "rows" | "cols">;

/** Two sign matrices and three scale vectors. */
export function dbfStorage({ rows, cols }: Shape, rank: number): LayerStorage {
  return {
    kind: "dbf",
    ranked: true,
    codeBits: rank * (rows + cols),
    packedBytes: signBytes({ rows, cols }, rank),
    scales: rows + rank + cols,
  };
}

/** Codes, a scale a group, and, unless MatMulNBits assumes them, zero points. */
export function nbitsStorage(
  { rows, cols }: Shape,
  bits: CodeBits,
  group: number,
  impliedZeros: boolean,
): LayerStorage {
  return {
    kind: "nbits",
    ranked: false,
    codeBits: bits * rows * cols,
    packedBytes: codeBytes(rows, cols, bits, group) + (impliedZeros ? 0 : rows * zeroRowBytes(cols, bits, group)),
    scales: rows * groupsOf(cols, group),
  };
}

/** One sign a weight and two scale vectors. */
export function signStorage({ rows, cols }: Shape): LayerStorage {
  return {
    kind: "sign",
    ranked: false,
    codeBits: rows * cols,
    packedBytes: packedBytes(rows, cols),
    scales: rows + cols,
  };
}

/** What a committed layer is stored as; `undefined` for dense ones and for kinds of plugins. */
export function entryStorage(
  { kind, shape: [rows, cols], attributes }: Pick<ArtefactEntry, "kind" | "shape" | "attributes">,
): LayerStorage | undefined {
  const { rank, bits, group, zeros } = attributes;
  if (kind === "dbf" && typeof rank === "number") return dbfStorage({ rows, cols }, rank);
  if (kind === "sign") return signStorage({ rows, cols });
  if (kind !== "nbits" || typeof bits !== "number" || typeof group !== "number") return undefined;
  return nbitsStorage({ rows, cols }, bits as CodeBits, group, zeros === false);
}

/** Bytes of a layer whose scales take `scaleBytes` each. */
export function storedBytes({ packedBytes, scales }: LayerStorage, scaleBytes: number): number {
  return packedBytes + scaleBytes * scales;
}

/** Bits per weight with everything that is stored; scales are counted with `scaleBits`, 16 by default, as papers do. */
export function storedBitsPerWeight({ rows, cols }: Shape, storage: LayerStorage, scaleBits = 16): number {
  return 8 * storedBytes(storage, scaleBits / 8) / (rows * cols);
}
