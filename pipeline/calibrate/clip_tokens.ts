/**
 * Robust statistics: single tokens with huge activations must not decide what is important.
 *
 * @module
 */
import { div, expand, max, min, mul, reduceSum, reshape, slice, sqrt, topK } from "../graph/ops.ts";
import type { Graph, Value } from "../graph/types.ts";

/**
 * Scales tokens whose Euclidean norm is above a quantile of their window's norms down to it.
 *
 * @param rows `(batch·tokens, features)`.
 * @param quantile In (0, 1]; 1 changes nothing. NanoQuant (arXiv 2602.06694) takes 0.999.
 */
export function clipTokens(g: Graph, rows: Value, batch: number, tokens: number, quantile: number): Value {
  const above = Math.floor((1 - quantile) * tokens);
  if (above === 0) return rows;
  const norms = reshape(g, sqrt(g, reduceSum(g, mul(g, rows, rows), [1])), [batch, tokens]);
  const [largest] = topK(g, norms, above + 1, 1);
  const limit = slice(g, largest, 1, above, above + 1);
  const factor = min(g, div(g, expand(g, limit, [batch, tokens]), max(g, norms, 1e-30)), 1);
  return mul(g, rows, reshape(g, factor, [batch * tokens, 1]));
}
