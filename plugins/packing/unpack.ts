/**
 * From a packed layer of kind `dbf` back to factors.
 *
 * @module
 */
import { LAYOUT_VERSION, packedBytes, unpackSigns } from "../../kernels/layout.ts";
import type { DbfFactors, PackedLayer, PackedTensor, SignMatrix } from "../../pipeline/stream/stage.ts";

/** Largest middle dimension: far beyond 16 bits a weight of the largest layers, and small enough to multiply safely. */
const MAX_RANK = 2 ** 24;

/**
 * Unpacks a layer and checks everything it says against its tensors.
 *
 * @param name Of the weight, for errors.
 * @param shape `(rows, cols)` of the weight.
 * @throws {TypeError} when the layer is of another kind or lacks a tensor.
 * @throws {RangeError} when a size, the layout, or a scale is impossible.
 */
export function unpackFactors(name: string, shape: readonly number[], layer: PackedLayer): DbfFactors {
  if (layer.kind !== "dbf") throw new TypeError(`Cannot unpack "${name}" as factors: its kind is ${layer.kind}`);
  const { rank, layout } = layer.attributes;
  const [rows, cols] = shape;
  if (shape.length !== 2) {
    throw new RangeError(`Cannot unpack "${name}" as its weight must be a matrix: current value is [${shape}]`);
  }
  if (layout !== LAYOUT_VERSION) {
    throw new RangeError(`Cannot unpack "${name}" as its layout must be ${LAYOUT_VERSION}: current value is ${layout}`);
  }
  if (typeof rank !== "number" || !Number.isInteger(rank) || rank < 1 || rank > MAX_RANK) {
    throw new RangeError(`Cannot unpack "${name}" as its rank must be 1…${MAX_RANK}: current value is ${rank}`);
  }
  const tensor = (key: string, dtype: PackedTensor["dtype"]): Uint8Array => {
    const found = Object.hasOwn(layer.tensors, key) ? layer.tensors[key] : undefined;
    if (found?.dtype !== dtype) {
      throw new TypeError(
        `Cannot unpack "${name}" as tensor ${key} must be ${dtype}: current value is ${found?.dtype ?? "absent"}`,
      );
    }
    return found.data;
  };
  const scales = (key: string, length: number): Float32Array => {
    const data = tensor(key, "F32");
    if (data.byteLength !== 4 * length) {
      throw new RangeError(
        `Cannot unpack "${name}" as ${key} must have ${length} scales: current value is ${data.byteLength / 4}`,
      );
    }
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    return Float32Array.from({ length }, (_, index) => view.getFloat32(4 * index, true));
  };
  const signs = (key: string, N: number, K: number): SignMatrix => {
    const data = tensor(key, "U8");
    if (data.byteLength !== packedBytes(N, K)) {
      throw new RangeError(
        `Cannot unpack "${name}" as signs ${key} of ${N}x${K} take ${packedBytes(N, K)} bytes: ` +
          `current value is ${data.byteLength} bytes`,
      );
    }
    return unpackSigns(data, N, K);
  };
  const { weightedError } = layer.attributes;
  return {
    kind: "dbf",
    rank,
    A: signs("A", rows, rank),
    B: signs("B", rank, cols),
    a: scales("a", rows),
    mid: scales("mid", rank),
    b: scales("b", cols),
    weightedError: typeof weightedError === "number" ? weightedError : NaN,
  };
}
