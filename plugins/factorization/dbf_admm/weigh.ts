/**
 * Weighting and normalization of a weight as one graph.
 *
 * @module
 */
import type { Graph } from "../../../pipeline/graph/types.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { abs, add, div, equal, mul, reduceMax, reduceMean, sqrt, where } from "../../../pipeline/graph/ops.ts";

/**
 * Inputs: `w` `(n, m)`, `row` `(n, 1)`, `col` `(1, m)`. Outputs: `weighted` W̃ = row ⊙ W ⊙ col over its own root mean
 * square, so that every later number is near one whatever the weight's scale, and the factors taken out, `largest`
 * (largest |W|) and `rms`, as scalars: W̃·largest·rms is the weighted matrix. A zero matrix stays zero with factors one; NaN or
 * infinity anywhere makes `rms` not finite.
 */
export function weighGraph(rows: number, cols: number): Graph {
  const g = createGraph("weigh");
  const w = g.input("w", "float32", [rows, cols]);
  const row = g.input("row", "float32", [rows, 1]), col = g.input("col", "float32", [1, cols]);
  const orOne = (x: typeof w) => where(g, equal(g, x, 0), 1, x);
  const largest = orOne(reduceMax(g, reduceMax(g, abs(g, w), [1]), [0]));
  const scaled = mul(g, mul(g, div(g, w, largest), row), col);
  const rms = orOne(sqrt(g, reduceMean(g, reduceMean(g, mul(g, scaled, scaled), [1]), [0])));
  g.output("weighted", div(g, scaled, rms));
  g.output("largest", largest);
  // NaN spreads through the mean; 0·w makes infinities NaN too.
  g.output("rms", add(g, rms, mul(g, largest, 0)));
  return g;
}
