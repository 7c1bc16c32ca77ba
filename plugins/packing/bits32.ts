/**
 * Packs factors into the operator's own sign layout, with scales in f32.
 *
 * @module
 */
import * as v from "valibot";
import { LAYOUT_VERSION, packedBytes, packedShape, packSigns } from "../../kernels/layout.ts";
import { defineStage, type PackedTensor } from "../../pipeline/stream/stage.ts";

/** Little-endian bytes of finite scales. */
function scaleTensor(layer: string, which: string, values: Float32Array, length: number): PackedTensor {
  if (values.length !== length) {
    throw new RangeError(
      `Cannot pack "${layer}" as ${which} must have ${length} scales: current value is ${values.length}`,
    );
  }
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) {
    throw new RangeError(
      `Cannot pack "${layer}" as ${which}[${bad}] must be a finite scale: current value is ${values[bad]}`,
    );
  }
  const data = new Uint8Array(4 * length);
  const view = new DataView(data.buffer);
  values.forEach((value, index) => view.setFloat32(4 * index, value, true));
  return { dtype: "F32", shape: [length], data };
}

/**
 * Kind `dbf`: tensors `A` (signs of (n,k)) and `B` (signs of (k,m)) in the layout of kernels/layout.ts, scales `a` (n),
 * `mid` (k), `b` (m) in f32; attributes `rank`, `layout` and `weightedError`.
 *
 * Scales are kept in f32 although sizes are usually counted with 16-bit ones: tuned scales stay exact, nothing can
 * overflow or become denormal, every target converts from the same numbers, and the difference is 16(n+k+m)/(nm) bits a
 * weight, 0.05 at 4096². A target of 16-bit type rounds them itself.
 */
export const bits32 = defineStage({
  kind: "packing",
  scope: "layer",
  name: "bits32",
  version: "1.0.0",
  description: "Signs in the operator's 32-bit layout, scales in f32.",
  options: v.strictObject({}),
  estimate: ({ rows, cols, rank }) => ({
    // Row-major words and the packed copy of both factors, scales, and the file's buffer.
    peakBytes: 3 * (packedBytes(rows, rank) + packedBytes(rank, cols)) + 12 * (rows + rank + cols),
    flops: 0,
  }),
  run: ({ job: { name, rows, cols, rank }, factors }) => {
    const sizes = [factors.A.rows, factors.A.cols, factors.B.rows, factors.B.cols];
    if (factors.rank !== rank || String(sizes) !== String([rows, rank, rank, cols])) {
      throw new RangeError(
        `Cannot pack "${name}" as its factors must be ${rows}x${rank} and ${rank}x${cols}: current value is ` +
          `${sizes[0]}x${sizes[1]} and ${sizes[2]}x${sizes[3]}`,
      );
    }
    const error = factors.weightedError;
    return Promise.resolve({
      kind: "dbf",
      attributes: { rank, layout: LAYOUT_VERSION, ...(Number.isFinite(error) ? { weightedError: error } : {}) },
      tensors: {
        A: { dtype: "U8", shape: packedShape(rows, rank), data: packSigns(factors.A) },
        B: { dtype: "U8", shape: packedShape(rank, cols), data: packSigns(factors.B) },
        a: scaleTensor(name, "a", factors.a, rows),
        mid: scaleTensor(name, "mid", factors.mid, rank),
        b: scaleTensor(name, "b", factors.b, cols),
      },
    });
  },
});
