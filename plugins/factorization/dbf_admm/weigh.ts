/**
 * Weighting and normalization of a weight as one graph.
 *
 * @module
 */
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import {
  add,
  div,
  equal,
  max,
  mul,
  neg,
  reduceMax,
  reduceMin,
  reduceSum,
  reduceSumSquare,
  sqrt,
  where,
} from "../../../pipeline/graph/ops.ts";

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
  const orOne = (x: Value) => where(g, equal(g, x, 0), 1, x);
  const most = reduceMax(g, reduceMax(g, w, [1]), [0]), least = reduceMin(g, reduceMin(g, w, [1]), [0]);
  const largest = orOne(max(g, most, neg(g, least)));
  // One buffer beside W: the later products overwrite it.
  const scaled = mul(g, div(g, w, largest), col);
  const squares = mul(g, reduceSumSquare(g, scaled, [1]), mul(g, row, row)); // of every row
  const rms = orOne(sqrt(g, div(g, reduceSum(g, squares, [0]), rows * cols)));
  g.output("weighted", mul(g, scaled, div(g, row, rms)));
  g.output("largest", largest);
  // NaN spreads through the sum; 0·∞ makes infinities NaN too.
  g.output("rms", add(g, rms, mul(g, largest, 0)));
  return g;
}
