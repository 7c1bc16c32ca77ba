/**
 * Graphs that turn logits into a few numbers a token, on the device that made them.
 *
 * @module
 */
import { encodeModel } from "../graph/encode.ts";
import { createGraph } from "../graph/graph.ts";
import {
  add,
  argMax,
  cast,
  equal,
  exp,
  gatherElements,
  log,
  mul,
  reduceMax,
  reduceSum,
  squeeze,
  sub,
  unsqueeze,
} from "../graph/ops.ts";
import type { Graph, Value } from "../graph/types.ts";

/** Element type of logits. */
export type LogitsDType = "float32" | "float16";

/**
 * Builds the graph for one model, or for a model beside a baseline.
 *
 * Inputs: `logits` `(batch, length, vocabulary)`, `targets` int64 `(batch, length)`, and with `baseline` the logits of
 * the baseline in `baseline_logits`. Outputs, float32 `(batch, length)`: `nll` = −log q(target), and with `baseline`
 * `baseline_nll` = −log p(target), `kl` = Σ p·(log p − log q) in nats, and `same` = 1 where both prefer the same token.
 *
 * @param model Type of the model's logits.
 * @param baseline Type of the baseline's, where there is one.
 */
export function scoreGraph(model: LogitsDType, baseline?: LogitsDType): Uint8Array {
  const g = createGraph("score");
  const shape = ["batch", "length", "vocabulary"];
  const float = (value: Value) => value.dtype === "float32" ? value : cast(g, value, "float32");
  const y = float(g.input("logits", model, shape));
  const targets = unsqueeze(g, g.input("targets", "int64", ["batch", "length"]), [2]);
  const q = normalize(g, y);
  const nll = (x: Value, logSum: Value) => squeeze(g, sub(g, logSum, gatherElements(g, x, targets)), [2]);
  g.output("nll", nll(y, q.logSum));
  if (baseline === undefined) return encodeModel(g);

  const x = float(g.input("baseline_logits", baseline, shape));
  const p = normalize(g, x);
  g.output("baseline_nll", nll(x, p.logSum));
  // Σ p·((x − log Z_p) − (y − log Z_q)) = (Σ e·(x − y)) / Σ e − (log Z_p − log Z_q), e = exp(x − max x): one pass, no p kept.
  const mean = mul(g, reduceSum(g, mul(g, p.exps, sub(g, x, y)), [2]), p.inverseSum);
  g.output("kl", squeeze(g, sub(g, mean, sub(g, p.logSum, q.logSum)), [2]));
  g.output("same", cast(g, equal(g, argMax(g, x), argMax(g, y)), "float32"));
  return encodeModel(g);
}

/** exp(x − max), 1/Σ of it, and log Σ exp(x), stable for any x. */
function normalize(g: Graph, x: Value): { exps: Value; inverseSum: Value; logSum: Value } {
  const top = reduceMax(g, x, [2]);
  const exps = exp(g, sub(g, x, top));
  const total = reduceSum(g, exps, [2]);
  return { exps, inverseSum: exp(g, sub(g, 0, log(g, total))), logSum: add(g, top, log(g, total)) };
}
