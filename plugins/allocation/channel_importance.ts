/**
 * What removing a middle channel costs, to first order.
 *
 * @module
 */
import type { DbfFactors, LayerImportance } from "../../pipeline/stream/stage.ts";

/**
 * Taylor importance of the scale of each middle channel, I_c = ½ m_c² E[h_c²] E[e_c²], with h = B(b⊙x) and e = Aᵀ(a⊙g).
 * The entries of A and B are ±1, so under diagonal statistics E[h_c²] = Σ_j b_j² E[x_j²] and E[e_c²] = Σ_i a_i² E[g_i²]
 * are the same for all channels of a layer.
 *
 * @param importance One everywhere where `undefined`.
 * @returns In the order of the channels, `(rank,)`, in units of the loss.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { channelImportance } from "./channel_importance.ts";
 *
 * const factors = { a: Float32Array.of(2), mid: Float32Array.of(1, -3), b: Float32Array.of(1, 1) };
 * const importance = { input: Float32Array.of(1, 4), output: Float32Array.of(0.5) };
 * assertEquals([...channelImportance(factors, importance)], [5, 45]);
 * ```
 */
export function channelImportance(
  { a, mid, b }: Pick<DbfFactors, "a" | "mid" | "b">,
  importance: LayerImportance | undefined,
): Float64Array {
  const hidden = b.reduce((total, scale, j) => total + scale * scale * (importance?.input[j] ?? 1), 0);
  const gradient = a.reduce((total, scale, i) => total + scale * scale * (importance?.output[i] ?? 1), 0);
  return Float64Array.from(mid, (scale) => 0.5 * scale * scale * hidden * gradient);
}

/**
 * Share of the channels' importance that is lost for good when some are removed and the layer is factorized again with fewer: the rest
 * is taken over by the others. A factorization with k channels explains 1 − ε of a weight, so that its channels are worth
 * (1 − ε)/k each, while errors fall like ε(k) = exp(−c·k), so that one channel fewer costs −dε/dk = ε·ln(1/ε)/k.
 *
 * @param weightedError ε, relative.
 * @returns ε·ln(1/ε)/(1 − ε), 0 to 1.
 *
 * @example
 * ```ts
 * import { assertAlmostEquals } from "@std/assert";
 * import { remainingShare } from "./channel_importance.ts";
 *
 * assertAlmostEquals(remainingShare(0.5), Math.LN2);
 * ```
 */
export function remainingShare(weightedError: number): number {
  const error = Math.min(1 - 1e-9, Math.max(1e-9, weightedError));
  return error * Math.log(1 / error) / (1 - error);
}
