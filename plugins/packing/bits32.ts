/**
 * Packs factors into the layouts that the runtime's operators read, with scales in f32.
 *
 * @module
 */
import * as v from "valibot";
import { packedBytes } from "../../kernels/layout.ts";
import { defineStage } from "../../pipeline/stream/stage.ts";
import { PACKED_KINDS } from "./kinds.ts";

/**
 * Each kind of factors in the layout of the operator that runs it: signs in the 32-bit words of `BinaryMatMul`, codes as
 * `MatMulNBits` takes them (dbf.ts, nbits.ts, sign.ts say which tensors).
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
  description: "Signs in the operator's 32-bit layout, codes as MatMulNBits takes them, scales in f32.",
  options: v.strictObject({}),
  estimate: ({ rows, cols, rank }) => ({
    // Row-major words and the packed copy of both factors, scales, and the file's buffer; codes of 8 bits without a rank.
    peakBytes: rank > 0
      ? 3 * (packedBytes(rows, rank) + packedBytes(rank, cols)) + 12 * (rows + rank + cols)
      : 3 * rows * (cols + 256) + 12 * (rows + cols),
    flops: 0,
  }),
  run: ({ job, factors }) => Promise.resolve(PACKED_KINDS[factors.kind].pack(job, factors)),
});
