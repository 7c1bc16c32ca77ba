/**
 * Where the error of a rounded column goes: the triangular factor of the inputs' second moment, panel by panel.
 *
 * @module
 */
import type { Tensor } from "../../../kernels/runtime/types.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import {
  add,
  div,
  fill,
  gather,
  int64,
  less,
  matMul,
  max,
  mul,
  pad,
  range,
  reduceMean,
  reduceSum,
  reshape,
  scan,
  slice,
  sqrt,
  sub,
  transpose,
  unsqueeze,
  where,
} from "../../../pipeline/graph/ops.ts";
import type { Graph } from "../../../pipeline/graph/types.ts";
import type { SessionPool } from "../dbf_admm/sessions.ts";

/** Inputs `moment` (cols, cols) → `a` (size, size): its part over the mean of its diagonal, plus `ridge` on the diagonal; columns beyond are independent. */
export function dampedGraph(cols: number, size: number, ridge: number): Graph {
  const g = createGraph("damped_moment");
  const moment = g.input("moment", "float32", [cols, cols]);
  const identity = (size: number) =>
    g.node("EyeLike", [fill(g, [size, size], 0)], {}, { outputs: [{ dtype: "float32", shape: [size, size] }] })[0];
  const mean = reduceMean(g, reduceSum(g, mul(g, moment, identity(cols)), [1]), [0, 1], false);
  const scaled = div(g, moment, max(g, mean, 1e-30));
  const padded = size === cols ? scaled : pad(g, scaled, [0, 0, size - cols, size - cols]);
  g.output("a", add(g, padded, mul(g, identity(size), ridge)));
  return g;
}

/**
 * One panel of the decomposition A = (I + M)·D·(I + M)ᵀ with M strictly upper triangular, from the last columns to the first.
 * Input `a` `(end, end)`, what is left of A; outputs `feedback` `(width, end)`: the last `width` columns of M as rows, and
 * `a_next` `(end − width, end − width)`.
 */
export function panelGraph(end: number, width: number): Graph {
  const g = createGraph("feedback_panel");
  const start = end - width;
  const a = g.input("a", "float32", [end, end]);
  const places = range(g, int64(g, 0), int64(g, end), int64(g, 1));
  const body = createGraph("feedback_column", { outer: g });
  // rows of the state are columns of A's panel
  const state = body.input("panel", "float32", [width, end]);
  const index = body.input("index", "int64", []);
  const column = gather(body, state, index);
  const place = add(body, index, start);
  const pivot = gather(body, column, place);
  // m_j = a_jk / d_k for j < k
  const m = where(body, less(body, places, place), div(body, column, pivot), 0);
  // a_jl −= m_j·d_k·m_l
  const own = reshape(body, slice(body, m, 0, start, end), [width, 1]);
  body.output("panel_next", sub(body, state, mul(body, mul(body, own, pivot), unsqueeze(body, m, [0]))));
  body.output("m", m);
  body.output("d", pivot);
  const order = g.constant(BigInt64Array.from({ length: width }, (_, at) => BigInt(width - 1 - at)), [width]);
  const panel = transpose(g, slice(g, a, 1, start, end), [1, 0]);
  const [, m_rows, d] = scan(g, [panel], [order], body);
  const feedback = gather(g, m_rows, order);
  g.output("feedback", feedback);
  if (start > 0) {
    // A −= M_panel·D·M_panelᵀ
    const rest = mul(g, slice(g, feedback, 1, 0, start), sqrt(g, unsqueeze(g, gather(g, d, order), [1])));
    const left = slice(g, slice(g, a, 0, 0, start), 1, 0, start);
    g.output("a_next", sub(g, left, matMul(g, transpose(g, rest, [1, 0]), rest)));
  }
  return g;
}

/**
 * Factors a second moment for error feedback: with H + λI = (I + M)·D·(I + M)ᵀ, rounding column k of W + (errors of the columns
 * before it)·M minimizes what the error of all columns does to the layer's output (Chee et al., arXiv 2307.13304, theorem 1: the
 * same as GPTQ's, arXiv 2210.17323, which works with the inverse).
 *
 * @param moment H = Σ x xᵀ, `(cols, cols)`.
 * @param width Columns of a panel; the last panel is padded.
 * @param ridge λ in means of H's diagonal.
 * @returns Panel p as `(width, (p + 1)·width)`: row i holds M[:, p·width + i].
 */
export async function errorFeedback(
  pool: SessionPool,
  moment: Tensor,
  width: number,
  ridge: number,
): Promise<Tensor[]> {
  const cols = moment.shape[0], panels = Math.ceil(cols / width), size = panels * width;
  let { a } = await pool.run(`damped ${ridge}`, () => dampedGraph(cols, size, ridge), { moment });
  const feedback: Tensor[] = new Array(panels);
  for (let panel = panels - 1; panel >= 0; panel--) {
    const end = (panel + 1) * width;
    const found = await pool.run(`panel ${panel}`, () => panelGraph(end, width), { a });
    a[Symbol.dispose]();
    feedback[panel] = found.feedback;
    a = found.a_next;
  }
  return feedback;
}
