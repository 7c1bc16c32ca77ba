/**
 * The kinds of layers that block graphs know.
 *
 * @module
 */
import type { FactorsKind } from "../stream/stage.ts";
import { dbfLinear } from "./dbf_linear.ts";
import type { LayerKind } from "./layer_kind.ts";
import { nbitsLinear } from "./nbits_linear.ts";
import { signLinear } from "./sign_linear.ts";

/** By kind of factors. */
export const LAYER_KINDS: Readonly<Record<FactorsKind, LayerKind>> = {
  dbf: dbfLinear,
  nbits: nbitsLinear,
  sign: signLinear,
};
