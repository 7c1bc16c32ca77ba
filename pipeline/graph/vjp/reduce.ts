/**
 * Gradients of reductions and of the softmax family.
 *
 * @module
 */
import type { Graph, Value } from "../types.ts";
import { constantInts, expandLike, int64s, intAttribute, op, positiveAxis, scalar } from "./rule.ts";
import type { VjpContext, VjpRule } from "./rule.ts";

/** Axes that a reduction takes away, from its second input or (older operator sets) its attribute. */
function reducedAxes({ g, node }: VjpContext): number[] {
  const rank = node.inputs[0]!.shape.length;
  const attribute = node.attributes.axes;
  const axes = Array.isArray(attribute) ? attribute as number[] : constantInts(g, node, 1);
  if (axes === undefined || axes.length === 0) {
    return intAttribute(node, "noop_with_empty_axes", 0) === 1 ? [] : Array.from({ length: rank }, (_, i) => i);
  }
  return axes.map((axis) => positiveAxis(axis, rank)).sort((a, b) => a - b);
}

/** The gradient of a reduction's output, with the reduced axes back as 1. */
function keptDims(context: VjpContext, value: Value): Value {
  const { g, node } = context;
  if (intAttribute(node, "keepdims", 1) === 1) return value;
  const axes = reducedAxes(context);
  return axes.length === 0 ? value : op(g, "Unsqueeze", [value, int64s(g, axes)]);
}

/** Sum: every element gets the gradient of its sum. */
function reduceSum(context: VjpContext): Value[] {
  return [expandLike(context.g, keptDims(context, context.gradients[0]!), context.node.inputs[0]!)];
}

/** Mean: the same, over the number of elements. */
function reduceMean(context: VjpContext): Value[] {
  const { g, node } = context;
  const x = node.inputs[0]!;
  const dims = reducedAxes(context).map((axis) => x.shape[axis]);
  if (!dims.every((dim) => typeof dim === "number")) {
    throw new TypeError(`Cannot differentiate ReduceMean "${node.name}" as a reduced dimension is not known`);
  }
  const count = (dims as number[]).reduce((product, dim) => product * dim, 1);
  const share = op(g, "Mul", [keptDims(context, context.gradients[0]!), scalar(g, 1 / count, x.dtype)]);
  return [expandLike(g, share, x)];
}

/** Σx²: 2x times the gradient of its sum. */
function reduceSumSquare(context: VjpContext): Value[] {
  const { g, node } = context;
  const x = node.inputs[0]!;
  const twice = op(g, "Mul", [keptDims(context, context.gradients[0]!), scalar(g, 2, x.dtype)]);
  return [op(g, "Mul", [x, twice])];
}

/**
 * Σ dy ⊙ y over the last axis for weights y, where dy is what a product o = y·v gave: the same as Σ do ⊙ o, which is far smaller
 * (Dao et al., FlashAttention, arXiv 2205.14135, appendix B.2). `undefined` where the graph is not so.
 */
function totalOfWeights(g: Graph, y: Value, dy: Value): Value | undefined {
  const maker = (value: Value | undefined) =>
    g.nodes.find(({ outputs }) => value !== undefined && outputs.includes(value));
  const reshaped = maker(dy);
  const made = reshaped?.type === "Reshape" ? maker(reshaped.inputs[0]) : reshaped;
  // dy = do·vᵀ, as the rule of products makes it; with another product beside it dy would be a sum
  const transposed = maker(made?.inputs[1]);
  const rows = y.shape.slice(0, -1);
  if (made?.type !== "MatMul" || transposed?.type !== "Transpose") return undefined;
  const lefts = g.nodes.filter(({ type, inputs }) => type === "Reshape" && inputs[0] === y).map(({ outputs }) =>
    outputs[0]
  );
  const products = g.nodes.filter(({ type, inputs: [left, right] }) =>
    type === "MatMul" && right === transposed.inputs[0] && (left === y || lefts.includes(left!))
  );
  if (products.length !== 1 || !rows.every((dim) => typeof dim === "number")) return undefined;
  const o = products[0].outputs[0];
  const sums = op(g, "ReduceSum", [op(g, "Mul", [made.inputs[0]!, o]), int64s(g, [o.shape.length - 1])], {
    keepdims: 1,
  });
  return op(g, "Reshape", [sums, int64s(g, [...rows as number[], 1])]);
}

/** y = softmax(x): dx = y ⊙ (dy − Σ dy ⊙ y). */
function softmax({ g, node, gradients }: VjpContext): Value[] {
  const y = node.outputs[0];
  const last = positiveAxis(intAttribute(node, "axis", -1), y.shape.length);
  const known = last === y.shape.length - 1 ? totalOfWeights(g, y, gradients[0]!) : undefined;
  if (known !== undefined) return [op(g, "Mul", [y, op(g, "Sub", [gradients[0]!, known])])];
  const axis = int64s(g, [last]);
  const weighted = op(g, "Mul", [gradients[0]!, y]);
  const total = op(g, "ReduceSum", [weighted, axis], { keepdims: 1 });
  return [op(g, "Sub", [weighted, op(g, "Mul", [y, total])])];
}

/** y = log softmax(x): dx = dy − exp(y) ⊙ Σ dy. */
function logSoftmax({ g, node, gradients }: VjpContext): Value[] {
  const y = node.outputs[0];
  const axis = int64s(g, [positiveAxis(intAttribute(node, "axis", -1), y.shape.length)]);
  const total = op(g, "ReduceSum", [gradients[0]!, axis], { keepdims: 1 });
  return [op(g, "Sub", [gradients[0]!, op(g, "Mul", [op(g, "Exp", [y]), total])])];
}

/** Rules by operator type. */
export const REDUCE_RULES: Readonly<Record<string, VjpRule>> = {
  ReduceSum: reduceSum,
  ReduceMean: reduceMean,
  ReduceSumSquare: reduceSumSquare,
  Softmax: softmax,
  LogSoftmax: logSoftmax,
};
