/**
 * Shapes of reductions.
 *
 * @module
 */
import type { DType } from "../../kernels/runtime/types.ts";
import type { Dim } from "./types.ts";
import { type InferenceContext, normalizeAxis, numberAttribute, required, type Rule } from "./infer_rule.ts";

/** Axes of a reduction: an input since opset 13 (ReduceSum) and 18 (the others), an attribute before. */
function reductionAxes(c: InferenceContext, rank: number): readonly number[] {
  const attribute = c.attributes.axes;
  if (Array.isArray(attribute)) return attribute.map((axis) => normalizeAxis(Number(axis), rank, c.type));
  if (c.inputs[1] === undefined) {
    return numberAttribute(c, "noop_with_empty_axes", 0) ? [] : Array.from({ length: rank }, (_, axis) => axis);
  }
  const axes = c.integers(c.inputs[1]);
  if (axes === undefined) throw new TypeError(`Cannot infer ${c.type}: its axes are not constant`);
  return axes.map((axis) => normalizeAxis(Number(axis), rank, c.type));
}

function reduced(shape: readonly Dim[], axes: readonly number[], keep: boolean): readonly Dim[] {
  return shape.flatMap((dim, axis) => (axes.includes(axis) ? (keep ? [1] : []) : [dim]));
}

const reduce: Rule = (c) => {
  const x = required(c, 0);
  const keep = numberAttribute(c, "keepdims", 1) === 1;
  return [{ dtype: x.dtype, shape: reduced(x.shape, reductionAxes(c, x.shape.length), keep) }];
};

const arg: Rule = (c) => {
  const x = required(c, 0);
  const axis = normalizeAxis(numberAttribute(c, "axis", 0), x.shape.length, c.type);
  return [{ dtype: "int64", shape: reduced(x.shape, [axis], numberAttribute(c, "keepdims", 1) === 1) }];
};

const topK: Rule = (c) => {
  const x = required(c, 0);
  const axis = normalizeAxis(numberAttribute(c, "axis", -1), x.shape.length, c.type);
  const shape = x.shape.map((dim, at) => (at === axis ? c.integers(c.inputs[1])?.[0] ?? c.fresh() : dim));
  const index: DType = "int64";
  return [{ dtype: x.dtype, shape }, { dtype: index, shape }];
};

/** Rules by operator. */
export const REDUCTION_RULES: Readonly<Record<string, Rule>> = {
  ReduceSum: reduce,
  ReduceMean: reduce,
  ReduceMax: reduce,
  ReduceMin: reduce,
  ReduceProd: reduce,
  ReduceL2: reduce,
  ReduceL1: reduce,
  ReduceSumSquare: reduce,
  ReduceLogSumExp: reduce,
  ArgMax: arg,
  ArgMin: arg,
  TopK: topK,
};
