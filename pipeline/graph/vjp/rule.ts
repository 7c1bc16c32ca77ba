/**
 * What a vector-Jacobian product rule is, and the few helpers that all of them share.
 *
 * @module
 */
import type { DType } from "../../../kernels/runtime/types.ts";
import type { Attribute, Dim, Graph, Node, Value } from "../types.ts";

/** What a rule sees of one node. */
export interface VjpContext {
  readonly g: Graph;
  readonly node: Node;
  /** Gradients of the node's outputs, of the outputs' shapes; `undefined` where nothing depends on one. At least one is there. */
  readonly gradients: readonly (Value | undefined)[];
  /** Whether the gradient of input `index` is asked for. */
  needed(index: number): boolean;
}

/** Gradients of the node's inputs, by position; `undefined` where it is zero or not needed. */
export type VjpRule = (context: VjpContext) => readonly (Value | undefined)[];

/** Adds a node with one output and returns that. */
export function op(
  g: Graph,
  type: string,
  inputs: readonly (Value | undefined)[],
  attributes?: Readonly<Record<string, Attribute>>,
): Value {
  return g.node(type, inputs, attributes)[0];
}

/** A 1-D int64 constant. */
export function int64s(g: Graph, values: readonly number[]): Value {
  return g.constant(BigInt64Array.from(values, BigInt), [values.length], "int64");
}

/** A scalar constant of a floating-point type. */
export function scalar(g: Graph, value: number, dtype: DType): Value {
  return g.constant(value, [], dtype);
}

/** The shape of `value` as an int64 tensor: a constant where it is known, a Shape node where it is not. */
export function shapeTensor(g: Graph, value: Value): Value {
  return value.shape.every((dim) => typeof dim === "number")
    ? int64s(g, value.shape as readonly number[])
    : op(g, "Shape", [value]);
}

/** Reshapes `value` to the shape of `like`, which has as many elements. */
export function reshapeLike(g: Graph, value: Value, like: Value): Value {
  if (sameShape(value.shape, like.shape)) return value;
  const unknown = like.shape.filter((dim) => typeof dim !== "number").length;
  const target = unknown <= 1
    ? int64s(g, like.shape.map((dim) => typeof dim === "number" ? dim : -1))
    : op(g, "Shape", [like]);
  return g.node("Reshape", [value, target], {}, { outputs: [{ dtype: value.dtype, shape: like.shape }] })[0];
}

/** Broadcasts `value` to the shape of `like`. */
export function expandLike(g: Graph, value: Value, like: Value): Value {
  if (sameShape(value.shape, like.shape)) return value;
  const outputs = [{ dtype: value.dtype, shape: like.shape }];
  return g.node("Expand", [value, shapeTensor(g, like)], {}, { outputs })[0];
}

/** A tensor of zeros with the type and shape of `like`. */
export function zerosLike(g: Graph, like: Value): Value {
  return expandLike(g, scalar(g, 0, like.dtype), like);
}

/** Whether two shapes are known to be equal. */
export function sameShape(a: readonly Dim[], b: readonly Dim[]): boolean {
  return a.length === b.length && a.every((dim, axis) => dim === b[axis]);
}

/** Sums `gradient` over the axes along which a value of `shape` was broadcast, so that it has that shape. */
export function unbroadcast(g: Graph, gradient: Value, shape: readonly Dim[]): Value {
  if (sameShape(gradient.shape, shape)) return gradient;
  const added = gradient.shape.length - shape.length;
  const leading = Array.from({ length: added }, (_, axis) => axis);
  const stretched = shape.flatMap((dim, axis) => dim === 1 && gradient.shape[axis + added] !== 1 ? [axis + added] : []);
  let value = gradient;
  if (stretched.length > 0) value = op(g, "ReduceSum", [value, int64s(g, stretched)], { keepdims: 1 });
  if (leading.length > 0) value = op(g, "ReduceSum", [value, int64s(g, leading)], { keepdims: 0 });
  return value;
}

/** Elements of an integer constant (axes, starts, sizes …) that an input of `node` must be. */
export function constantInts(g: Graph, node: Node, index: number): number[] | undefined {
  const value = node.inputs[index];
  if (value === undefined) return undefined;
  const known = g.integers(value);
  if (known === undefined || !known.every((each) => typeof each === "number")) {
    throw new TypeError(
      `Cannot differentiate ${node.type} "${node.name}" as its input ${index} ("${value.name}") must be a constant`,
    );
  }
  return [...known] as number[];
}

/** An integer attribute, or its default. */
export function intAttribute(node: Node, name: string, otherwise: number): number {
  const value = node.attributes[name];
  return value === undefined ? otherwise : Number(typeof value === "object" && "float" in value ? value.float : value);
}

/** Turns a possibly negative axis into a non-negative one. */
export function positiveAxis(axis: number, rank: number): number {
  return axis < 0 ? axis + rank : axis;
}
