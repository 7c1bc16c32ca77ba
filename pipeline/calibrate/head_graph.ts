/**
 * What follows the last block: final norm, head, and the losses on logits, with their gradients at the last block's output.
 *
 * @module
 */
import { buildHead } from "../model/decoder_graph.ts";
import type { ModelDescription } from "../model/types.ts";
import { differentiate } from "../graph/differentiate.ts";
import { createGraph } from "../graph/graph.ts";
import {
  concat,
  exp,
  gather,
  gatherElements,
  gemm,
  logSoftmax,
  mul,
  neg,
  reduceSum,
  reshape,
  slice,
  squeeze,
  sub,
  unsqueeze,
} from "../graph/ops.ts";
import type { Graph, Value } from "../graph/types.ts";

/** Logits `(rows, vocabulary)` of hidden states `(rows, hidden)`. */
export function buildLogits(g: Graph, model: ModelDescription, hidden: Value, norm: Value, head: Value): Value {
  const absent = () => {
    throw new TypeError("Cannot use a block's weights in the head");
  };
  return buildHead(g, model, {
    embed: absent,
    linear: absent,
    vector: () => norm,
    head: (_, x) => gemm(g, x, head, { transB: true }),
  }, hidden);
}

/** Rows `[start, end)` of hidden states `name` `(windows, tokens, hidden)`. */
function rowsOf(g: Graph, model: ModelDescription, name: string, start: Value, end: Value): Value {
  const all = g.input(name, "float32", ["windows", "tokens", model.hiddenSize]);
  return slice(g, reshape(g, all, [-1, model.hiddenSize]), 0, start, end);
}

function headInputs(g: Graph, model: ModelDescription) {
  const start = g.input("start", "int64", [1]), end = g.input("end", "int64", [1]);
  const hidden = rowsOf(g, model, "hidden", start, end);
  const norm = g.input("norm", "float32", [model.hiddenSize]);
  const head = g.input("head", "float32", [model.vocabularySize, model.hiddenSize]);
  return { start, end, hidden, norm, head, logits: buildLogits(g, model, hidden, norm, head) };
}

/**
 * Cross-entropy of the next token. Inputs `hidden` `(windows, tokens, hidden)`, `norm`, `head`, `start` and `end` of the
 * rows, `labels` int64 `(rows,)`, `mask` f32 `(rows,)` (0 where there is no next token). Outputs `loss`, the masked sum in
 * nats, and `gradient` of it `(rows, hidden)`.
 */
export function buildCrossEntropy(model: ModelDescription, options: { readonly gradient: boolean }): Graph {
  const g = createGraph("cross_entropy");
  const { hidden, logits } = headInputs(g, model);
  const labels = g.input("labels", "int64", ["rows"]);
  const mask = g.input("mask", "float32", ["rows"]);
  const picked = squeeze(g, gatherElements(g, logSoftmax(g, logits), unsqueeze(g, labels, [1]), 1), [1]);
  const loss = neg(g, reduceSum(g, mul(g, picked, mask), [0], false));
  g.output("loss", loss);
  if (options.gradient) g.output("gradient", differentiate(g, loss, [hidden])[0]);
  return g;
}

/**
 * KL(teacher ‖ student) of the next token's distribution. Inputs `hidden` and `teacher` `(windows, tokens, hidden)`,
 * `norm`, `head`, `start` and `end` of the rows, `share`, a scalar that the gradient is multiplied by (1 / tokens for the
 * mean). Outputs `loss`, the sum in nats, and `gradient` at `hidden` `(rows, hidden)`.
 */
export function buildDistillationLoss(model: ModelDescription): Graph {
  const g = createGraph("distillation_loss");
  const { start, end, hidden, norm, head, logits } = headInputs(g, model);
  const teacher = rowsOf(g, model, "teacher", start, end);
  const share = g.input("share", "float32", []);
  const student = logSoftmax(g, logits);
  const target = logSoftmax(g, buildLogits(g, model, teacher, norm, head));
  const probability = exp(g, target);
  const loss = reduceSum(g, mul(g, probability, sub(g, target, student)), [0, 1], false);
  // ∂KL/∂logits = softmax(student) − softmax(teacher)
  const atLogits = sub(g, exp(g, student), probability);
  const [gradient] = differentiate(g, [{ value: logits, gradient: atLogits }], [hidden]);
  g.output("loss", loss);
  g.output("gradient", mul(g, gradient, share));
  return g;
}

/** Embeddings from a head that is tied to them. Inputs `ids` int64 `(windows, tokens)` and `head`; output `hidden` `(windows, tokens, hidden)`. */
export function buildTiedEmbedding(model: ModelDescription): Graph {
  const g = createGraph("tied_embedding");
  const head = g.input("head", "float32", [model.vocabularySize, model.hiddenSize]);
  const rows = gather(g, head, g.input("ids", "int64", ["windows", "tokens"]), 0);
  g.output("hidden", model.embeddingScale === 1 ? rows : mul(g, rows, model.embeddingScale));
  return g;
}

/** Joins `pieces` arrays of rows to `shape` `(windows, tokens, hidden)`: inputs `rows0` …, output `all`. */
export function buildJoinRows(pieces: number, shape: readonly number[]): Graph {
  const g = createGraph("join_rows");
  const width = shape[shape.length - 1];
  const parts = Array.from({ length: pieces }, (_, at) => g.input(`rows${at}`, "float32", [`count${at}`, width]));
  g.output("all", reshape(g, pieces === 1 ? parts[0] : concat(g, parts, 0), shape));
  return g;
}
