/**
 * Kind `nbits`: tensors `codes` `(n, groups, group·s/8)` and `zeros` `(n, ceil(groups·s/8))` as MatMulNBits reads them, and
 * `scales` `(n, groups)`; attributes `bits`, `group`, `zeros` and `weightedError`. s is the stored width of a code: 3-bit codes take 4.
 * `zeros` is left out, and its attribute false, where all of them are what MatMulNBits assumes.
 *
 * @module
 */
import { type CodeBits, storedBits } from "../../pipeline/stream/factors.ts";
import {
  codeBytes,
  defaultZero,
  GROUPS,
  groupsOf,
  packRows,
  unpackRows,
  zeroRowBytes,
} from "../../pipeline/stream/nbits_layout.ts";
import type { NbitsFactors } from "../../pipeline/stream/stage.ts";
import type { PackedKind } from "./kind.ts";
import { errorAttribute, errorOf, layerTensors, packScales } from "./tensors.ts";

/** Packs and unpacks rounded layers. */
export const nbitsKind: PackedKind<NbitsFactors> = {
  pack({ name, rows, cols }, factors) {
    const { bits, group, codes, scales, zeros, weightedError } = factors;
    const groups = groupsOf(cols, group), width = storedBits(bits);
    if (factors.rows !== rows || factors.cols !== cols || codes.length !== codeBytes(rows, cols, bits, group)) {
      throw new RangeError(
        `Cannot pack "${name}" as its codes must be ${rows}x${cols}, ${codeBytes(rows, cols, bits, group)} bytes: ` +
          `current value is ${factors.rows}x${factors.cols}, ${codes.length} bytes`,
      );
    }
    if (zeros.length !== rows * groups) {
      throw new RangeError(
        `Cannot pack "${name}" as it must have ${rows * groups} zero points: current value is ${zeros.length}`,
      );
    }
    const implied = zeros.every((zero) => zero === defaultZero(bits));
    return {
      kind: "nbits",
      attributes: { bits, group, zeros: !implied, ...errorAttribute(weightedError) },
      tensors: {
        codes: { dtype: "U8", shape: [rows, groups, group * width / 8], data: codes },
        scales: packScales(name, "scales", scales, [rows, groups]),
        ...(implied ? {} : {
          zeros: {
            dtype: "U8",
            shape: [rows, zeroRowBytes(cols, bits, group)],
            data: packRows(zeros, rows, groups, width),
          },
        }),
      },
    };
  },
  unpack(name, rows, cols, layer) {
    const { bits, group } = nbitsAttributes(name, layer.attributes);
    const groups = groupsOf(cols, group), width = storedBits(bits);
    const { bytes, scales } = layerTensors(name, layer);
    const zeros = layer.attributes.zeros === true
      ? unpackRows(
        bytes("zeros", rows * zeroRowBytes(cols, bits, group), `zero points of ${rows}x${groups}`),
        rows,
        groups,
        width,
      )
      : new Uint8Array(rows * groups).fill(defaultZero(bits));
    return {
      kind: "nbits",
      rows,
      cols,
      bits,
      group,
      codes: bytes("codes", codeBytes(rows, cols, bits, group), `codes of ${rows}x${cols}`),
      scales: scales("scales", rows * groups),
      zeros,
      weightedError: errorOf(layer),
    };
  },
};

/**
 * Bits and group of a rounded layer.
 *
 * @throws {RangeError} when there are none that this version reads.
 */
export function nbitsAttributes(
  name: string,
  { bits, group }: Readonly<Record<string, unknown>>,
): { readonly bits: CodeBits; readonly group: number } {
  if (bits !== 2 && bits !== 3 && bits !== 4 && bits !== 8) {
    throw new RangeError(`Cannot read "${name}" as its codes must have 2, 3, 4 or 8 bits: current value is ${bits}`);
  }
  if (typeof group !== "number" || !GROUPS.includes(group)) {
    throw new RangeError(`Cannot read "${name}" as its group must be ${GROUPS.join(", ")}: current value is ${group}`);
  }
  return { bits, group };
}
