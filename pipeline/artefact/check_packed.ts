/**
 * What a packing stage returned, before it is stored: a plugin's mistake must not look like a fault of the disk.
 *
 * @module
 */
import * as v from "valibot";
import { DTYPE_BYTES } from "../checkpoint/safetensors_dtype.ts";
import type { PackedLayer } from "../stream/stage.ts";

const Size = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

const Layer = v.object({
  kind: v.pipe(v.string(), v.nonEmpty()),
  attributes: v.record(v.string(), v.union([v.string(), v.number(), v.boolean()])),
  tensors: v.pipe(
    v.record(
      v.string(),
      v.pipe(
        v.object({
          dtype: v.picklist(["F32", "F16", "BF16", "U8", "I8", "U32", "I32"]),
          shape: v.array(Size),
          data: v.instance(Uint8Array),
        }),
        v.check(
          ({ dtype, shape, data }) => data.length === shape.reduce((size, side) => size * side, DTYPE_BYTES[dtype]),
          "must have as many bytes as its shape says",
        ),
      ),
    ),
    v.check((tensors) => Object.keys(tensors).length > 0, "must have a tensor"),
  ),
});

/**
 * Makes sure that a layer can be stored.
 *
 * @param name Of the weight, for errors.
 * @param stage Who packed it, for errors.
 * @throws {TypeError} naming the field that is wrong.
 *
 * @example
 * ```ts
 * import { assertThrows } from "@std/assert";
 * import { checkPacked } from "./check_packed.ts";
 *
 * const tensors = { codes: { dtype: "U32", shape: [2], data: new Uint8Array(7) } } as const;
 * assertThrows(() => checkPacked("w", "mine", { kind: "own", attributes: {}, tensors }), TypeError, "tensors.codes");
 * ```
 */
export function checkPacked(name: string, stage: string, layer: PackedLayer): PackedLayer {
  const { success, issues } = v.safeParse(Layer, layer);
  if (success) return layer;
  const what = issues.map((issue) => `${v.getDotPath(issue) ?? "the layer"}: ${issue.message}`).join("; ");
  throw new TypeError(`Cannot commit "${name}" as packed by ${stage}: ${what}`);
}
