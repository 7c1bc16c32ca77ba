/**
 * Double-binary layers as `ai.dbf::BinaryMatMul` nodes.
 *
 * @module
 */
import { binaryMatMulFunction, DBF_DOMAIN } from "../../../kernels/functions/binary_matmul.ts";
import { LAYOUT_VERSION, packedBytes, packedShape } from "../../../kernels/layout.ts";
import { mul } from "../../../pipeline/graph/ops.ts";
import type { ExternalSource, Graph, Value } from "../../../pipeline/graph/types.ts";
import type { ExportedLayer, LayerBuilder } from "./layer.ts";
import { checkElements, layerSources, packedFloats } from "./packed_source.ts";

/** Scales of a layer, f32. */
export interface Scales {
  readonly a: Float32Array;
  readonly mid: Float32Array;
  readonly b: Float32Array;
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

/** Streams of a layer's five tensors. */
function dbfSources(layer: ExportedLayer, rank: number): Record<string, ExternalSource> {
  const { linear: { weight, rows, cols }, source, dtype } = layer;
  const sizes = {
    bytes: { A: packedBytes(rows, rank), B: packedBytes(rank, cols) },
    scales: { a: rows, mid: rank, b: cols },
  };
  return layerSources(sizes, dtype, async () => {
    const { tensors, ...packed } = await source.layer(weight);
    checkElements({ tensors, ...packed }, weight, { ...sizes.bytes, ...sizes.scales });
    const scales = { a: packedFloats(tensors.a), mid: packedFloats(tensors.mid), b: packedFloats(tensors.b) };
    return {
      bytes: { A: tensors.A.data, B: tensors.B.data },
      scales: { ...(dtype === "float16" ? balanceScales(scales) : scales) },
    };
  });
}

/** `(X · signsᵀ) ⊙ scale`: one node of our operator. */
export function binaryMatMul(g: Graph, x: Value, signs: Value, scale: Value, N: number, K: number): Value {
  g.function(binaryMatMulFunction());
  return g.node("BinaryMatMul", [x, signs, scale], { K, N }, {
    domain: DBF_DOMAIN,
    outputs: [{ dtype: x.dtype, shape: [...x.shape.slice(0, -1), N] }],
  })[0];
}

/** @throws {RangeError} for signs in another layout. */
export function checkSignLayout(weight: string, layout: unknown): void {
  if (layout === LAYOUT_VERSION) return;
  throw new RangeError(
    `Cannot export "${weight}" from sign layout ${layout}: this version reads ${LAYOUT_VERSION}; compress again`,
  );
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
  checkSignLayout(weight, attributes.layout);
  const sources = dbfSources(layer, rank);
  const B = g.initializer(`${weight}.B`, "uint8", packedShape(rank, cols), sources.B);
  const A = g.initializer(`${weight}.A`, "uint8", packedShape(rows, rank), sources.A);
  const b = g.initializer(`${weight}.b`, dtype, [cols], sources.b);
  const mid = g.initializer(`${weight}.mid`, dtype, [rank], sources.mid);
  const a = g.initializer(`${weight}.a`, dtype, [rows], sources.a);
  return binaryMatMul(g, binaryMatMul(g, mul(g, x, b), B, mid, rank, cols), A, a, rows, rank);
};
