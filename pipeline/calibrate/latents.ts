/**
 * Signs as continuous latents in training, and back.
 *
 * @module
 */
import { f16BitsToF32, f32ToF16Bits } from "../checkpoint/half.ts";
import { cast, greaterOrEqual, mul, sub } from "../graph/ops.ts";
import type { Graph, Value } from "../graph/types.ts";
import type { SignMatrix } from "../stream/stage.ts";

/** Signs of latents: +1 where ≥ 0, −1 elsewhere, as f32 of the latents' shape. */
export function signsOf(g: Graph, latents: Value): Value {
  // ONNX Runtime's Where holds two more arrays of the result's size
  return sub(g, mul(g, cast(g, greaterOrEqual(g, latents, 0), "float32"), 2), 1);
}

/** Least |latent| that a sign starts with: exactly zero has no sign. */
const LEAST_LATENT = 1e-4;
/** |latent| of a sign whose continuous value is not known any more. Only its ratio to the rate counts; that all have the same is what helps (README of plugins/reconstruction). */
const UNKNOWN_LATENT = 0.5;
/** Smallest magnitude that a half keeps a sign with. */
const LEAST_HALF = 2 ** -14;

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

/** Latents as f16 bits; tiny ones do not round to a zero of the other sign. */
export function halfLatents(latents: Float32Array): Uint16Array {
  return f32ToF16Bits(
    latents.map((value) => value >= 0 ? Math.max(value, LEAST_HALF) : Math.min(value, -LEAST_HALF)),
  );
}

/** Number of signs in which two matrices of one shape differ. */
export function signDifference(x: SignMatrix, y: SignMatrix): number {
  let count = 0;
  for (let at = 0; at < x.words.length; at++) {
    for (let bits = x.words[at] ^ y.words[at]; bits !== 0; bits &= bits - 1) count++;
  }
  return count;
}
