/**
 * Kind `sign`: tensor `S` (signs of (n,m)) in the layout of kernels/layout.ts, scales `a` (n) and `b` (m); attributes
 * `layout` and `weightedError`.
 *
 * @module
 */
import { LAYOUT_VERSION } from "../../kernels/layout.ts";
import type { SignFactors } from "../../pipeline/stream/stage.ts";
import { checkLayout } from "./dbf.ts";
import type { PackedKind } from "./kind.ts";
import { errorAttribute, errorOf, layerTensors, packMatrix, packScales } from "./tensors.ts";

/** Packs and unpacks layers of one sign a weight. */
export const signKind: PackedKind<SignFactors> = {
  pack({ name, rows, cols }, { S, a, b, weightedError }) {
    if (S.rows !== rows || S.cols !== cols) {
      throw new RangeError(
        `Cannot pack "${name}" as its signs must be ${rows}x${cols}: current value is ${S.rows}x${S.cols}`,
      );
    }
    return {
      kind: "sign",
      attributes: { layout: LAYOUT_VERSION, ...errorAttribute(weightedError) },
      tensors: { S: packMatrix(S), a: packScales(name, "a", a, [rows]), b: packScales(name, "b", b, [cols]) },
    };
  },
  unpack(name, rows, cols, layer) {
    checkLayout(name, layer.attributes.layout);
    const { scales, signs } = layerTensors(name, layer);
    return {
      kind: "sign",
      S: signs("S", rows, cols),
      a: scales("a", rows),
      b: scales("b", cols),
      weightedError: errorOf(layer),
    };
  },
};
