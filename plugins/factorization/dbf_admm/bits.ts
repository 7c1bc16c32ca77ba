/**
 * Signs to packed bits and back, on the device.
 *
 * @module
 */
import type { Graph } from "../../../pipeline/graph/types.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import {
  cast,
  div,
  floor,
  greaterOrEqual,
  matMul,
  mul,
  pad,
  reshape,
  slice,
  sub,
  transpose,
} from "../../../pipeline/graph/ops.ts";

const POWERS = Float32Array.of(1, 2, 4, 8, 16, 32, 64, 128);

/** Bytes of a packed row of `cols` signs: whole 32-bit words. */
export function packedRowBytes(cols: number): number {
  return 4 * Math.ceil(cols / 32);
}

/**
 * `signs` f32 `(rows, cols)` → `bits` uint8 `(rows, 4·ceil(cols/32))`, bit j of a row is column j, least significant
 * first, 1 where the sign is ≥ 0, padding 0. `transposed` takes `signs` as `(cols, rows)`.
 */
export function packGraph(rows: number, cols: number, transposed = false): Graph {
  const g = createGraph("pack_signs");
  const bytes = packedRowBytes(cols);
  let signs = g.input("signs", "float32", transposed ? [cols, rows] : [rows, cols]);
  if (transposed) signs = transpose(g, signs, [1, 0]);
  let ones = cast(g, greaterOrEqual(g, signs, 0), "float32");
  if (8 * bytes !== cols) ones = pad(g, ones, [0, 0, 0, 8 * bytes - cols]);
  const sums = matMul(g, reshape(g, ones, [rows * bytes, 8]), g.constant(POWERS, [8, 1]));
  g.output("bits", cast(g, reshape(g, sums, [rows, bytes]), "uint8"));
  return g;
}

/** `bits` uint8 `(rows, 4·ceil(cols/32))` → `signs` f32 `(rows, cols)`, ±1, and `unit`, the same with rows of length one. */
export function unpackGraph(rows: number, cols: number): Graph {
  const g = createGraph("unpack_signs");
  const bytes = packedRowBytes(cols);
  const bits = g.input("bits", "uint8", [rows, bytes]);
  const shifted = floor(g, div(g, reshape(g, cast(g, bits, "float32"), [rows, bytes, 1]), g.constant(POWERS, [8])));
  const odd = sub(g, shifted, mul(g, floor(g, mul(g, shifted, 0.5)), 2));
  const signs = sub(g, mul(g, slice(g, reshape(g, odd, [rows, 8 * bytes]), 1, 0, cols), 2), 1);
  g.output("signs", signs);
  g.output("unit", mul(g, signs, 1 / Math.sqrt(cols)));
  return g;
}
