/**
 * Gradients of operators that only move elements: the gradient moves back.
 *
 * @module
 */
import type { Value } from "../types.ts";
import {
  constantInts,
  expandLike,
  int64s,
  intAttribute,
  op,
  positiveAxis,
  reshapeLike,
  scalar,
  unbroadcast,
  type VjpContext,
  type VjpRule,
  zerosLike,
} from "./rule.ts";

/** Length of `value` along `axis`, which must be known. */
function length(value: Value, axis: number): number {
  const dim = value.shape[axis];
  if (typeof dim === "number") return dim;
  throw new TypeError(`Cannot differentiate through "${value.name}" as dimension ${axis} ("${dim}") is not known`);
}

/** Same elements in another shape. */
const reshaping: VjpRule = ({ g, node, gradients }) => [reshapeLike(g, gradients[0]!, node.inputs[0]!)];

/** The inverse permutation; a missing `perm` reverses the axes. */
function transpose({ g, node, gradients }: VjpContext): Value[] {
  const rank = node.inputs[0]!.shape.length;
  const perm = (node.attributes.perm as readonly number[] | undefined) ??
    Array.from({ length: rank }, (_, axis) => rank - 1 - axis);
  const inverse = Array.from({ length: rank }, (_, axis) => perm.indexOf(axis));
  return [op(g, "Transpose", [gradients[0]!], { perm: inverse })];
}

/** Each part gets its piece. */
function concat({ g, node, gradients, needed }: VjpContext): (Value | undefined)[] {
  const rank = node.outputs[0].shape.length;
  const axis = positiveAxis(intAttribute(node, "axis", 0), rank);
  const sizes = node.inputs.map((value) => length(value!, axis));
  if (node.inputs.length === 1) return [gradients[0]];
  const outputs = node.inputs.map((value) => ({ dtype: value!.dtype, shape: value!.shape }));
  const pieces = g.node("Split", [gradients[0]!, int64s(g, sizes)], { axis }, { outputs });
  return pieces.map((piece, index) => needed(index) ? piece : undefined);
}

/** The pieces joined again, zeros where nothing depends on one. */
function split({ g, node, gradients }: VjpContext): Value[] {
  const axis = positiveAxis(intAttribute(node, "axis", 0), node.inputs[0]!.shape.length);
  const pieces = node.outputs.map((value, index) => gradients[index] ?? zerosLike(g, value));
  return [op(g, "Concat", pieces, { axis })];
}

/** Zeros around the piece (steps of 1 only). */
function slice({ g, node, gradients }: VjpContext): Value[] {
  const x = node.inputs[0]!;
  const rank = x.shape.length;
  const starts = constantInts(g, node, 1)!;
  const ends = constantInts(g, node, 2)!;
  const axes = constantInts(g, node, 3) ?? starts.map((_, axis) => axis);
  const steps = constantInts(g, node, 4) ?? starts.map(() => 1);
  if (steps.some((step) => step !== 1)) {
    throw new TypeError(
      `Cannot differentiate Slice "${node.name}" with steps [${steps}]: only steps of 1 are supported`,
    );
  }
  const before = new Array<number>(rank).fill(0);
  const after = new Array<number>(rank).fill(0);
  axes.forEach((given, index) => {
    const axis = positiveAxis(given, rank);
    const size = length(x, axis);
    const clamp = (at: number) => Math.min(Math.max(at < 0 ? at + size : at, 0), size);
    before[axis] = clamp(starts[index]);
    after[axis] = size - clamp(ends[index]);
  });
  const pads = int64s(g, [...before, ...after]);
  const outputs = [{ dtype: x.dtype, shape: x.shape }];
  return [g.node("Pad", [gradients[0]!, pads, scalar(g, 0, x.dtype)], { mode: "constant" }, { outputs })[0]];
}

/** The padding cut off again. */
function pad({ g, node, gradients }: VjpContext): Value[] {
  if ((node.attributes.mode ?? "constant") !== "constant") {
    throw new TypeError(`Cannot differentiate Pad "${node.name}" in mode ${String(node.attributes.mode)}`);
  }
  const x = node.inputs[0]!;
  const pads = constantInts(g, node, 1)!;
  const axes = x.shape.map((_, axis) => axis);
  const starts = int64s(g, axes.map((axis) => pads[axis]));
  const ends = int64s(g, axes.map((axis) => pads[axis] + length(x, axis)));
  return [op(g, "Slice", [gradients[0]!, starts, ends, int64s(g, axes)])];
}

/** Rows taken more than once get the sum: scatter-add along the first axis, around a transposition for the others. */
function gather({ g, node, gradients, needed }: VjpContext): (Value | undefined)[] {
  if (!needed(0)) return [];
  const [data, indices] = node.inputs as readonly Value[];
  const axis = positiveAxis(intAttribute(node, "axis", 0), data.shape.length);
  const rank = gradients[0]!.shape.length;
  const width = indices.shape.length;
  let table = zerosLike(g, data);
  let updates = gradients[0]!;
  const front = data.shape.map((_, index) => index === 0 ? axis : index <= axis ? index - 1 : index);
  if (axis > 0) {
    // the gradient has the indices' axes at `axis`: bring them to the front as well
    const perm = Array.from({ length: rank }, (_, index) => index);
    const moved = perm.splice(axis, width);
    updates = op(g, "Transpose", [updates], { perm: [...moved, ...perm] });
    table = op(g, "Transpose", [table], { perm: front });
  }
  const where = op(g, "Unsqueeze", [indices, int64s(g, [width])]);
  const wide = where.dtype === "int64" ? where : g.node("Cast", [where], { to: 7 })[0];
  const summed = g.node("ScatterND", [table, wide, updates], { reduction: "add" }, {
    outputs: [{ dtype: table.dtype, shape: table.shape }],
  })[0];
  if (axis === 0) return [summed];
  return [op(g, "Transpose", [summed], { perm: front.map((_, index) => front.indexOf(index)) })];
}

/** Elements taken more than once get the sum. */
function gatherElements({ g, node, gradients, needed }: VjpContext): (Value | undefined)[] {
  if (!needed(0)) return [];
  const [data, indices] = node.inputs as readonly Value[];
  const outputs = [{ dtype: data.dtype, shape: data.shape }];
  const attributes = { axis: intAttribute(node, "axis", 0), reduction: "add" };
  return [g.node("ScatterElements", [zerosLike(g, data), indices, gradients[0]!], attributes, { outputs })[0]];
}

/** Rules by operator type. */
export const SHAPE_RULES: Readonly<Record<string, VjpRule>> = {
  Reshape: reshaping,
  Flatten: reshaping,
  Squeeze: reshaping,
  Unsqueeze: reshaping,
  Transpose: transpose,
  Concat: concat,
  Split: split,
  Slice: slice,
  Pad: pad,
  Gather: gather,
  GatherElements: gatherElements,
  Expand: ({ g, node, gradients }) => [unbroadcast(g, gradients[0]!, node.inputs[0]!.shape)],
  Trilu: ({ g, node, gradients }) => [
    expandLike(g, op(g, "Trilu", [gradients[0]!, node.inputs[1]], node.attributes), node.inputs[0]!),
  ],
};
