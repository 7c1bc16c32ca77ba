/**
 * Shrinkage of diagonal importance toward its mean.
 *
 * @module
 */
import type { LayerImportance } from "../../pipeline/stream/stage.ts";

/**
 * d ← (1 − γ)·d + γ·mean(d) (NanoQuant, arXiv 2602.06694: γ 0.2 for Llama and Qwen, 0.6 for Gemma 3): estimates from few
 * tokens are too extreme.
 *
 * @param diagonal `(n,)`, ≥ 0.
 * @param gamma In [0, 1].
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { shrink } from "./shrinkage.ts";
 *
 * assertEquals(shrink(Float32Array.of(0, 4), 0.5), Float32Array.of(1, 3));
 * ```
 */
export function shrink(diagonal: Float32Array, gamma: number): Float32Array {
  const mean = diagonal.reduce((sum, value) => sum + value, 0) / Math.max(1, diagonal.length);
  return diagonal.map((value) => (1 - gamma) * value + gamma * mean);
}

/** Both diagonals of every layer shrunk. */
export function shrinkAll(
  layers: ReadonlyMap<string, LayerImportance>,
  gamma: number,
): Map<string, LayerImportance> {
  return new Map(
    [...layers].map(([name, { input, output }]) => [name, {
      input: shrink(input, gamma),
      output: shrink(output, gamma),
    }]),
  );
}
