/**
 * A graph that chooses tokens where the logits are, so that a row of a large vocabulary never comes to JavaScript.
 *
 * @module
 */
import { encodeModel } from "../graph/encode.ts";
import { createGraph } from "../graph/graph.ts";
import {
  add,
  argMax,
  cast,
  div,
  exp,
  fill,
  gatherND,
  greater,
  int64,
  lessOrEqual,
  matMul,
  min,
  mul,
  pad,
  range,
  reduceMax,
  reduceSum,
  reshape,
  slice,
  squeeze,
  sub,
  trilu,
  where,
} from "../graph/ops.ts";
import type { Graph, Value } from "../graph/types.ts";

/** Probabilities are added up in groups of this size, then over the groups: two short sums are quicker than one long one. */
const GROUP = 256;

/**
 * Builds it: the most likely token of the last row, or one drawn by inverting the distribution at `uniform`, as
 * {@linkcode ./sample.ts sampleToken} does without top-k, top-p, min-p and penalty. Sums are float32, so that a `uniform` within about
 * 1e-6 of a border between two tokens may fall on its other side.
 *
 * @param dtype Type of the logits.
 * @param vocabulary Length of a row.
 * @param draw Whether to draw; otherwise the inputs `uniform` and `temperature` are not there.
 * @returns A model: `logits` `(batch, length, vocabulary)`, `uniform` `(batch, 1)` float32 in [0, 1), `temperature` `()` float32 above 0
 *   → `token` `(batch)` int64, `largest` `(batch)` float32, the largest logit: not finite where a row is damaged.
 */
export function chooseGraph(dtype: "float32" | "float16", vocabulary: number, draw: boolean): Uint8Array {
  const g = createGraph("choose");
  const logits = g.input("logits", dtype, ["batch", "length", vocabulary]);
  const last = squeeze(g, slice(g, logits, 1, -1), [1]);
  const row = dtype === "float32" ? last : cast(g, last, "float32");
  const largest = reduceMax(g, row, [1]);
  g.output("largest", squeeze(g, largest, [1]));
  if (!draw) {
    g.output("token", argMax(g, row, 1));
    return encodeModel(g);
  }
  const uniform = g.input("uniform", "float32", ["batch", 1]), temperature = g.input("temperature", "float32", []);
  g.output("token", drawToken(g, row, largest, uniform, temperature));
  return encodeModel(g);
}

/**
 * A token drawn by inverting the distribution of a row at `uniform`.
 *
 * @param row `(batch, vocabulary)` float32 logits.
 * @param largest `(batch, 1)`, of each row.
 * @param uniform `(batch, 1)` float32 in [0, 1).
 * @param temperature `()` float32 above 0.
 * @returns `(batch)` int64.
 */
export function drawToken(g: Graph, row: Value, largest: Value, uniform: Value, temperature: Value): Value {
  const vocabulary = row.shape[1] as number;
  const groups = Math.ceil(vocabulary / GROUP);
  const relative = exp(g, div(g, sub(g, row, largest), temperature));
  const grouped = reshape(g, pad(g, relative, [0, 0, 0, groups * GROUP - vocabulary]), [-1, groups, GROUP]);
  const sums = squeeze(g, reduceSum(g, grouped, [2]), [2]);
  const upTo = runningSum(g, sums, groups), target = mul(g, uniform, slice(g, upTo, 1, -1));
  const group = firstAbove(g, upTo, target, sums, groups);
  const before = sub(g, gatherND(g, upTo, group, 1), gatherND(g, sums, group, 1));
  const inside = gatherND(g, grouped, group, 1); // (batch, GROUP)
  const rest = sub(g, target, reshape(g, before, [-1, 1]));
  const place = firstAbove(g, runningSum(g, inside, GROUP), rest, inside, GROUP);
  return squeeze(g, add(g, mul(g, group, GROUP), place), [1]);
}

/** Sums up to and with each of `length` columns of `(batch, length)`. */
function runningSum(g: Graph, x: Value, length: number): Value {
  return matMul(g, x, trilu(g, fill(g, [length, length], 1), { upper: true }));
}

/** `(batch, 1)` int64: the first column whose running sum exceeds the target, and never one without probability. */
function firstAbove(g: Graph, upTo: Value, target: Value, x: Value, length: number): Value {
  const passed = reduceSum(g, cast(g, lessOrEqual(g, upTo, target), "int64"), [1]);
  const columns = range(g, int64(g, 0), int64(g, length), int64(g, 1));
  const lastPossible = reduceMax(g, where(g, greater(g, x, 0), columns, int64(g, 0)), [1]);
  return min(g, passed, lastPossible);
}
