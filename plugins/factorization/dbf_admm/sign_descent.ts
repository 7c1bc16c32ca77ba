/**
 * Coordinate descent on the signs of one factor, scales and the other factor fixed.
 *
 * @module
 */
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import {
  abs,
  add,
  concat,
  gather,
  gemm,
  greaterOrEqual,
  int64,
  loop,
  mul,
  neg,
  pad,
  range,
  reduceSum,
  reshape,
  scatterND,
  slice,
  split,
  sub,
  where,
} from "../../../pipeline/graph/ops.ts";
import { signProblem } from "./sign_problem.ts";
import { signOf } from "./svid.ts";

/** Rows whose effect on later rows is one product; inside a panel rows follow one another. */
const PANEL = 32;

/**
 * One sweep: for i = 1..k, B_i ← sign(C_i − Σ_{j≠i} G_ij B_j) for all columns at once, G = PPᵀ, C = P·W̃ (or P·W̃ᵀ).
 * Works on B ⊙ b, whose signs may absorb b's: the product stays the same and b comes back ≥ 0. Never raises the error.
 *
 * Inputs: `w` `(n, m)`; `fixed` the other factor's signs, `(k, q)`; `fixedScale` `(1, q)`; `mid` `(k, 1)`;
 * `signs` `(k, p)`; `scale` `(1, p)`. With `side` `"B"` q = n, p = m; with `"A"` the other way round.
 * Outputs: `signs_next` `(k, p)`, `scale_next` `(1, p)` = |scale|.
 */
export function signDescentGraph(n: number, m: number, k: number, side: "A" | "B"): Graph {
  const g = createGraph("sign_descent");
  const { p, w, f, signs, scale } = signProblem(g, n, m, k, side);
  const size = Math.ceil(k / PANEL) * PANEL;
  const padded = (x: Value, cols = 0) => size === k ? x : pad(g, x, [0, 0, size - k, cols]);

  const gram = padded(gemm(g, f, f, { transB: true }), size - k);
  const cross = padded(gemm(g, f, w, { transB: side === "A" }));
  const magnitude = abs(g, scale), negative = neg(g, magnitude);
  const start = padded(mul(g, signs, scale));

  const body = createGraph("panel", { outer: g });
  const index = body.input("panel_index", "int64", []);
  body.input("panel_go", "bool", []);
  const state = body.input("panel_state", "float32", [size, p]);
  const rows = add(body, range(body, int64(body, 0), int64(body, PANEL), int64(body, 1)), mul(body, index, PANEL));
  const gramRows = gather(body, gram, rows), old = gather(body, state, rows);
  const block = gather(body, gramRows, rows, 1);
  // T = (C − G·B̃) + diag(G) ⊙ B̃: the pull on each sign with its own part taken out.
  const residual = sub(body, gather(body, cross, rows), gemm(body, gramRows, state));
  const eye = body.constant(Float32Array.from({ length: PANEL ** 2 }, (_, at) => at % (PANEL + 1) ? 0 : 1), [
    PANEL,
    PANEL,
  ]);
  const diagonal = reduceSum(body, mul(body, block, eye), [1]);
  let pull = add(body, residual, mul(body, old, diagonal));
  const ones = Array<number>(PANEL).fill(1);
  const before = split(body, old, 0, ones), columns = split(body, block, 1, ones);
  const after: Value[] = [];
  for (let row = 0; row < PANEL; row++) {
    const sign = where(body, greaterOrEqual(body, slice(body, pull, 0, row, row + 1), 0), magnitude, negative);
    after.push(sign);
    if (row + 1 < PANEL) pull = sub(body, pull, mul(body, columns[row], sub(body, sign, before[row])));
  }
  const updated = concat(body, after, 0);

  body.output("panel_go_on", body.constant(Uint8Array.of(1), [], "bool"));
  body.output("panel_state_next", scatterND(body, state, reshape(body, rows, [PANEL, 1]), updated));
  const [end] = loop(g, int64(g, size / PANEL), [start], body);
  g.output("signs_next", signOf(g, size === k ? end : slice(g, end, 0, 0, k)));
  g.output("scale_next", magnitude);
  return g;
}
