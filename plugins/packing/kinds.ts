/**
 * The kinds of factors that can be packed.
 *
 * @module
 */
import type { FactorsKind } from "../../pipeline/stream/stage.ts";
import { dbfKind } from "./dbf.ts";
import type { PackedKind } from "./kind.ts";
import { nbitsKind } from "./nbits.ts";
import { signKind } from "./sign.ts";

/** Packing by kind of factors. */
export const PACKED_KINDS: Readonly<Record<FactorsKind, PackedKind>> = {
  dbf: dbfKind,
  nbits: nbitsKind,
  sign: signKind,
};
