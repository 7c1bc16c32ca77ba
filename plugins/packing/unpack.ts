/**
 * From a packed layer back to factors.
 *
 * @module
 */
import type { Factors, FactorsKind, PackedLayer } from "../../pipeline/stream/stage.ts";
import { PACKED_KINDS } from "./kinds.ts";

/** Whether layers of a kind can be unpacked to factors. */
export function isFactorsKind(kind: string): kind is FactorsKind {
  return Object.hasOwn(PACKED_KINDS, kind);
}

/**
 * Unpacks a layer and checks everything it says against its tensors.
 *
 * @param name Of the weight, for errors.
 * @param shape `(rows, cols)` of the weight.
 * @throws {TypeError} when the layer is dense or of a plugin's own kind, or lacks a tensor.
 * @throws {RangeError} when a size, the layout, or a scale is impossible.
 */
export function unpackFactors(name: string, shape: readonly number[], layer: PackedLayer): Factors {
  if (!isFactorsKind(layer.kind)) throw new TypeError(`Cannot unpack "${name}" as factors: its kind is ${layer.kind}`);
  if (shape.length !== 2) {
    throw new RangeError(`Cannot unpack "${name}" as its weight must be a matrix: current value is [${shape}]`);
  }
  return PACKED_KINDS[layer.kind].unpack(name, shape[0], shape[1], layer);
}
