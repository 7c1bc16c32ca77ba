/**
 * What follows the last block: final norm, head, and the losses on logits, with their gradients at the last block's output.
 *
 * @module
 */
import { buildHead } from "../model/decoder_graph.ts";
import type { ModelDescription } from "../model/types.ts";
import { differentiate } from "../graph/differentiate.ts";
import { createGraph } from "../graph/graph.ts";
import { exp, gatherElements, gemm, logSoftmax, mul, neg, reduceSum, squeeze, sub, unsqueeze } from "../graph/ops.ts";
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

function headInputs(g: Graph, model: ModelDescription) {
  const hidden = g.input("hidden", "float32", ["rows", model.hiddenSize]);
  const norm = g.input("norm", "float32", [model.hiddenSize]);
  const head = g.input("head", "float32", [model.vocabularySize, model.hiddenSize]);
  return { hidden, norm, head, logits: buildLogits(g, model, hidden, norm, head) };
}

/**
 * Cross-entropy of the next token. Inputs `hidden` `(rows, hidden)`, `norm`, `head`, `labels` int64 `(rows,)`, `mask` f32
 * `(rows,)` (0 where there is no next token). Outputs `loss`, the masked sum in nats, and `gradient` of it `(rows, hidden)`.
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
 * KL(teacher ‖ student) of the next token's distribution. Inputs `hidden` and `teacher` `(rows, hidden)`, `norm`, `head`,
 * `share`, a scalar that the gradient is multiplied by (1 / tokens for the mean). Outputs `loss`, the sum in nats, and
 * `gradient` at `hidden`.
 */
export function buildDistillationLoss(model: ModelDescription): Graph {
  const g = createGraph("distillation_loss");
  const { hidden, norm, head, logits } = headInputs(g, model);
  const teacher = g.input("teacher", "float32", ["rows", model.hiddenSize]);
  const share = g.input("share", "float32", []);
  const student = logSoftmax(g, logits);
  const target = logSoftmax(g, buildLogits(g, model, teacher, norm, head));
  const probability = exp(g, target);
  const loss = reduceSum(g, mul(g, probability, sub(g, target, student)), [0, 1], false);
  // ∂KL/∂logits = softmax(student) − softmax(teacher)
  const atLogits = mul(g, sub(g, exp(g, student), probability), share);
  g.output("loss", loss);
  g.output("gradient", differentiate(g, [{ value: logits, gradient: atLogits }], [hidden])[0]);
  return g;
}
