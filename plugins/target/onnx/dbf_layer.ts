/**
 * Double-binary layers as `ai.dbf::BinaryMatMul` nodes.
 *
 * @module
 */
import { binaryMatMulFunction, DBF_DOMAIN } from "../../../kernels/functions/binary_matmul.ts";
import { LAYOUT_VERSION, packedBytes, packedShape } from "../../../kernels/layout.ts";
import { bf16BitsToF32, f16BitsToF32, f32ToF16Bits } from "../../../pipeline/checkpoint/half.ts";
import { mul } from "../../../pipeline/graph/ops.ts";
import type { ExternalSource, Graph, Value } from "../../../pipeline/graph/types.ts";
import type { PackedLayer, PackedTensor } from "../../../pipeline/stream/stage.ts";
import type { ExportedLayer, LayerBuilder } from "./layer.ts";

/** Names of the stored tensors: packed signs `A` (rows, rank) and `B` (rank, cols); scales `a` (rows), `mid` (rank), `b` (cols). */
const SCALES = ["a", "mid", "b"] as const;

/** Scales of a layer, f32. */
export interface Scales {
  readonly a: Float32Array;
  readonly mid: Float32Array;
  readonly b: Float32Array;
}

/**
 * A stored vector of floats as f32.
 *
 * @throws {TypeError} for another type.
 */
export function packedFloats({ dtype, data }: PackedTensor): Float32Array {
  const aligned = data.slice();
  if (dtype === "F32") return new Float32Array(aligned.buffer);
  if (dtype === "F16") return f16BitsToF32(new Uint16Array(aligned.buffer));
  if (dtype === "BF16") return bf16BitsToF32(new Uint16Array(aligned.buffer));
  throw new TypeError(`Cannot read scales stored as ${dtype}`);
}

function meanMagnitude(values: Float32Array): number {
  return values.reduce((sum, value) => sum + Math.abs(value), 0) / values.length;
}

/** The power of two nearest to `value`; 1 where there is none. */
function nearestPower(value: number): number {
  return value > 0 && Number.isFinite(value) ? 2 ** Math.round(Math.log2(value)) : 1;
}

/**
 * The same layer with scales that half precision holds well: b near 1, so that x ⊙ b is as large as x; a near 1/√rank,
 * so that the middle activations are as large as the output. Powers of two only: in f32 nothing is lost.
 */
export function balanceScales({ a, mid, b }: Scales): Scales {
  const input = nearestPower(meanMagnitude(b));
  const output = nearestPower(meanMagnitude(a) * Math.sqrt(mid.length));
  return {
    a: a.map((value) => value / output),
    mid: mid.map((value) => value * input * output),
    b: b.map((value) => value / input),
  };
}

/** Checks a packed layer against what the graph was built for. */
function checkLayer(layer: PackedLayer, name: string, sizes: Readonly<Record<string, number>>): void {
  for (const [tensor, elements] of Object.entries(sizes)) {
    const stored = layer.tensors[tensor];
    const count = stored?.shape.reduce((product, size) => product * size, 1);
    if (count !== elements) {
      throw new RangeError(
        `Cannot export "${name}": its tensor "${tensor}" has ${count ?? "no"} elements, not ${elements}`,
      );
    }
  }
}

/** Streams of a layer's five tensors; they follow each other in the file, so the layer is read once. */
function layerSources(layer: ExportedLayer, rank: number): Record<string, ExternalSource> {
  const { linear: { weight, rows, cols }, source, dtype } = layer;
  const sizes = { A: packedBytes(rows, rank), B: packedBytes(rank, cols), a: rows, mid: rank, b: cols };
  let left = 0;
  let reading: Promise<{ packed: PackedLayer; scales: Scales }> | undefined;
  const read = async () => {
    const packed = await source.layer(weight);
    checkLayer(packed, weight, sizes);
    const [a, mid, b] = SCALES.map((name) => packedFloats(packed.tensors[name]));
    return { packed, scales: dtype === "float16" ? balanceScales({ a, mid, b }) : { a, mid, b } };
  };
  const take = async () => {
    reading ??= (left = Object.keys(sizes).length, read());
    const result = await reading;
    if (--left === 0) reading = undefined;
    return result;
  };
  const elementBytes = dtype === "float32" ? 4 : 2;
  const signs = (name: "A" | "B"): ExternalSource => ({
    byteLength: sizes[name],
    async *chunks() {
      yield (await take()).packed.tensors[name].data;
    },
  });
  const scale = (name: "a" | "mid" | "b"): ExternalSource => ({
    byteLength: sizes[name] * elementBytes,
    async *chunks() {
      const values = (await take()).scales[name];
      const stored = dtype === "float32" ? values : f32ToF16Bits(values);
      yield new Uint8Array(stored.buffer as ArrayBuffer, stored.byteOffset, stored.byteLength);
    },
  });
  return { A: signs("A"), B: signs("B"), a: scale("a"), mid: scale("mid"), b: scale("b") };
}

/** `(X · signsᵀ) ⊙ scale`: one node of our operator. */
export function binaryMatMul(g: Graph, x: Value, signs: Value, scale: Value, N: number, K: number): Value {
  g.function(binaryMatMulFunction());
  return g.node("BinaryMatMul", [x, signs, scale], { K, N }, {
    domain: DBF_DOMAIN,
    outputs: [{ dtype: x.dtype, shape: [...x.shape.slice(0, -1), N] }],
  })[0];
}

/**
 * `H = BinaryMatMul(X ⊙ b, B, mid)`, `Y = BinaryMatMul(H, A, a)`.
 *
 * @throws {RangeError} when the entry has no rank, or its signs lie in another layout.
 */
export const dbfLayer: LayerBuilder = (g, layer, x) => {
  const { linear: { weight, rows, cols }, entry: { attributes }, dtype } = layer;
  const rank = attributes.rank;
  if (typeof rank !== "number" || !Number.isInteger(rank) || rank < 1) {
    throw new RangeError(`Cannot export "${weight}" as dbf: its rank is ${rank}`);
  }
  if (attributes.layout !== LAYOUT_VERSION) {
    throw new RangeError(
      `Cannot export "${weight}" from sign layout ${attributes.layout}: this version reads ${LAYOUT_VERSION}; compress again`,
    );
  }
  const sources = layerSources(layer, rank);
  const B = g.initializer(`${weight}.B`, "uint8", packedShape(rank, cols), sources.B);
  const A = g.initializer(`${weight}.A`, "uint8", packedShape(rows, rank), sources.A);
  const b = g.initializer(`${weight}.b`, dtype, [cols], sources.b);
  const mid = g.initializer(`${weight}.mid`, dtype, [rank], sources.mid);
  const a = g.initializer(`${weight}.a`, dtype, [rows], sources.a);
  return binaryMatMul(g, binaryMatMul(g, mul(g, x, b), B, mid, rank, cols), A, a, rows, rank);
};
