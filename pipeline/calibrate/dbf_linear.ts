/**
 * A DBF linear in training: signs come from continuous latents, scales are trained as they are.
 *
 * @module
 */
import type { DbfFactors, SignMatrix } from "../stream/stage.ts";
import type { LinearDescription } from "../model/types.ts";
import type { Graph, Value } from "../graph/types.ts";
import { gemm, greaterOrEqual, mul, where } from "../graph/ops.ts";
import { f16BitsToF32 } from "../checkpoint/half.ts";
import type { Segment } from "./parameters.ts";

/** Latents and scales of a block's DBF linears as segments of two flat vectors. */
export interface DbfLayout {
  /** `ROLE/A` (rows, rank) and `ROLE/B` (rank, cols) of every linear. */
  readonly latents: readonly Segment[];
  /** `ROLE/a` (rows,), `ROLE/mid` (rank,) and `ROLE/b` (cols,) of every linear. */
  readonly scales: readonly Segment[];
}

/** The layout of linears with the given middle dimensions. */
export function dbfLayout(linears: readonly (LinearDescription & { readonly rank: number })[]): DbfLayout {
  return {
    latents: linears.flatMap(({ role, rows, cols, rank }) => [
      { name: `${role}/A`, shape: [rows, rank] },
      { name: `${role}/B`, shape: [rank, cols] },
    ]),
    scales: linears.flatMap(({ role, rows, cols, rank }) => [
      { name: `${role}/a`, shape: [rows] },
      { name: `${role}/mid`, shape: [rank] },
      { name: `${role}/b`, shape: [cols] },
    ]),
  };
}

/** Signs of latents: +1 where ≥ 0, −1 elsewhere, as f32 of the latents' shape. */
export function signsOf(g: Graph, latents: Value): Value {
  return where(g, greaterOrEqual(g, latents, 0), g.constant(1), g.constant(-1));
}

/** y = a ⊙ (A · (mid ⊙ (B · (b ⊙ x)))) for rows `x` `(tokens, cols)`; A and B hold ±1. */
export function dbfProduct(
  g: Graph,
  x: Value,
  role: string,
  signs: Map<string, Value>,
  scales: Map<string, Value>,
): Value {
  const inner = gemm(g, mul(g, x, scales.get(`${role}/b`)!), signs.get(`${role}/B`)!, { transB: true });
  const middle = mul(g, inner, scales.get(`${role}/mid`)!);
  return mul(g, gemm(g, middle, signs.get(`${role}/A`)!, { transB: true }), scales.get(`${role}/a`)!);
}

/** Ŵ = diag(a)·A·diag(mid)·B·diag(b), `(rows, cols)`, in a graph. */
export function dbfWeight(g: Graph, role: string, signs: Map<string, Value>, scales: Map<string, Value>): Value {
  const a = scales.get(`${role}/a`)!;
  const column = g.node("Unsqueeze", [a, g.constant(BigInt64Array.of(1n), [1])])[0];
  const left = mul(g, signs.get(`${role}/A`)!, scales.get(`${role}/mid`)!);
  const right = mul(g, signs.get(`${role}/B`)!, scales.get(`${role}/b`)!);
  return mul(g, g.node("MatMul", [left, right])[0], column);
}

/** Least |latent| that a sign starts with: exactly zero has no sign. */
const LEAST_LATENT = 1e-4;
/** |latent| of a sign whose continuous value is not known any more: unit scale is of order one. */
const UNKNOWN_LATENT = 0.5;

/**
 * Continuous latents of one sign matrix, `(rows·cols,)` f32, whose signs are those of the matrix. A latent that disagrees
 * with its sign (the factorizer's last step flips some) is mirrored at a tenth of its magnitude, being ambiguous.
 *
 * @param iterate f16 bits of the factorizer's iterate in unit scale, when known.
 */
export function latentsOf(matrix: SignMatrix, iterate: Uint16Array | undefined): Float32Array {
  const { rows, cols, words } = matrix;
  const wordsPerRow = Math.ceil(cols / 32);
  const latents = iterate === undefined ? new Float32Array(rows * cols) : f16BitsToF32(iterate);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++, at++) {
      const sign = (words[row * wordsPerRow + (col >>> 5)] >>> (col & 31)) & 1 ? 1 : -1;
      if (iterate === undefined) {
        latents[at] = sign * UNKNOWN_LATENT;
        continue;
      }
      const value = latents[at] * sign;
      latents[at] = sign * Math.max(LEAST_LATENT, value >= 0 ? value : -0.1 * value);
    }
  }
  return latents;
}

/** Signs of latents, bit-packed. */
export function packLatents(latents: Float32Array, rows: number, cols: number): SignMatrix {
  const wordsPerRow = Math.ceil(cols / 32);
  const words = new Uint32Array(rows * wordsPerRow);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++, at++) {
      if (latents[at] >= 0) words[row * wordsPerRow + (col >>> 5)] |= 1 << (col & 31);
    }
  }
  return { rows, cols, words };
}

/** Number of signs in which two matrices of one shape differ. */
export function signDifference(x: SignMatrix, y: SignMatrix): number {
  let count = 0;
  for (let at = 0; at < x.words.length; at++) {
    for (let bits = x.words[at] ^ y.words[at]; bits !== 0; bits &= bits - 1) count++;
  }
  return count;
}

/** Arrays of a layer's factors under the names that {@linkcode dbfLayout} gives them. */
export function factorArrays(role: string, factors: DbfFactors): Map<string, Float32Array> {
  return new Map([
    [`${role}/A`, latentsOf(factors.A, factors.latents?.A)],
    [`${role}/B`, latentsOf(factors.B, factors.latents?.B)],
    [`${role}/a`, factors.a],
    [`${role}/mid`, factors.mid],
    [`${role}/b`, factors.b],
  ]);
}
