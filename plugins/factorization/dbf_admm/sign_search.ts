/**
 * Tabu search on the signs of one factor by the native operator: past the local minima of single flips and of pairs, for less than
 * one sweep in standard operators costs.
 *
 * @module
 */
import type { Graph } from "../../../pipeline/graph/types.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { abs, transpose } from "../../../pipeline/graph/ops.ts";
import { signSearch } from "./native_ops.ts";
import { signProblem, signRows } from "./sign_problem.ts";
import { signOf } from "./svid.ts";

/** Steps for which a sign that flipped stays: 7 was better than 3, 5, 10 and 20 on layers of SmolLM2. */
const TENURE = 5;
/** Most steps of a column for every step of patience. */
const MOST = 16;

/**
 * Inputs and outputs are those of `signDescentGraph` (sign_descent.ts). Never raises the error.
 *
 * @param patience Steps of a column without improvement after which its search ends.
 */
export function signSearchGraph(n: number, m: number, k: number, side: "A" | "B", patience: number): Graph {
  const g = createGraph("sign_search");
  const problem = signProblem(g, n, m, k, side), { start, residual, gram } = signRows(g, problem, side);
  const search = signSearch(g, start, residual, gram, { patience, steps: MOST * patience, tenure: TENURE });
  g.output("signs_next", signOf(g, transpose(g, search, [1, 0])));
  g.output("scale_next", abs(g, problem.scale));
  return g;
}
