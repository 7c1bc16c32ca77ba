/**
 * What decoders are made of, from primitive operators only, so that it can be differentiated and runs on every provider.
 *
 * @module
 */
import type { Graph, Value } from "./types.ts";
import { add, cast, div, erf, matMul, mul, pow, reduceMean, sigmoid, sqrt, tanh, transpose } from "./ops.ts";

/**
 * Root-mean-square normalization over the last dimension with f32 statistics: `x / √(mean(x²) + ε) ⊙ weight`
 * (Zhang & Sennrich, arXiv 1910.07467).
 *
 * @param x `[…, features]`, f32 or f16.
 * @param weight `[features]`; the product with it is taken in f32 too.
 * @returns The type and shape of `x`.
 */
export function rmsNorm(g: Graph, x: Value, weight: Value, epsilon: number): Value {
  const wide = x.dtype === "float16" ? cast(g, x, "float32") : x;
  const mean = reduceMean(g, pow(g, wide, 2), [-1]);
  const normal = div(g, wide, sqrt(g, add(g, mean, epsilon)));
  return cast(g, mul(g, normal, cast(g, weight, wide.dtype)), x.dtype);
}

/** `x·sigmoid(x)`. */
export function silu(g: Graph, x: Value): Value {
  return mul(g, x, sigmoid(g, x));
}

/** `x·Φ(x)` with the error function. */
export function gelu(g: Graph, x: Value): Value {
  return mul(g, mul(g, x, 0.5), add(g, erf(g, mul(g, x, Math.SQRT1_2)), 1));
}

/** `½x(1 + tanh(√(2/π)(x + 0.044715x³)))`. */
export function geluTanh(g: Graph, x: Value): Value {
  const cubic = mul(g, mul(g, mul(g, x, x), x), 0.044715);
  const inner = mul(g, add(g, x, cubic), Math.sqrt(2 / Math.PI));
  return mul(g, mul(g, x, 0.5), add(g, tanh(g, inner), 1));
}

/** `cap·tanh(x/cap)`: keeps logits inside ±cap. */
export function softcap(g: Graph, x: Value, cap: number): Value {
  return mul(g, tanh(g, mul(g, x, 1 / cap)), cap);
}

/** `x·wᵀ` for `x` of `[…, cols]` and a matrix `w` of `[rows, cols]`, as Transpose and MatMul. */
export function matMulTransposed(g: Graph, x: Value, w: Value): Value {
  return matMul(g, x, transpose(g, w, [1, 0]));
}
