/**
 * Operators of ONNX's own domain as functions: the graph first, then operands. A number where a value is wanted becomes
 * a constant of the other operand's type. Shapes broadcast as in numpy. Sources: https://onnx.ai/onnx/operators/ (opset 21).
 *
 * @module
 */
import type { DType } from "../../kernels/runtime/types.ts";
import { arrayOf, ONNX_TYPES } from "./dtype.ts";
import type { Attribute, AttributeFloat, Dim, Graph, Value } from "./types.ts";

/** A value, or a number that becomes a scalar constant. */
export type Operand = Value | number;

/** Attributes of a node. */
type Attributes = Readonly<Record<string, Attribute>>;

function one(g: Graph, type: string, inputs: readonly (Value | undefined)[], attributes: Attributes = {}): Value {
  return g.node(type, inputs, attributes)[0];
}

/** An int64 vector constant, for shapes, axes and indices. */
export function int64s(g: Graph, values: readonly number[]): Value {
  return g.constant(BigInt64Array.from(values, (value) => BigInt(value)), [values.length], "int64");
}

/** An int64 scalar constant. */
export function int64(g: Graph, value: number): Value {
  return g.constant(BigInt64Array.of(BigInt(value)), [], "int64");
}

/** A scalar of the type of `like`. */
export function scalarLike(g: Graph, value: number, like: Value): Value {
  return g.constant(arrayOf(like.dtype, [value]), [], like.dtype);
}

/** Operands as values of one type. */
function operands(g: Graph, list: readonly Operand[]): Value[] {
  const like = list.find((each) => typeof each !== "number");
  return list.map((each) => {
    if (typeof each !== "number") return each;
    return like === undefined ? g.constant(each) : scalarLike(g, each, like);
  });
}

function binary(type: string): (g: Graph, a: Operand, b: Operand) => Value {
  return (g, a, b) => one(g, type, operands(g, [a, b]));
}

function unary(type: string): (g: Graph, x: Value) => Value {
  return (g, x) => one(g, type, [x]);
}

function reduction(type: string): (g: Graph, x: Value, axes?: readonly number[], keepDims?: boolean) => Value {
  return (g, x, axes, keepDims = true) =>
    one(g, type, axes === undefined ? [x] : [x, int64s(g, axes)], { keepdims: keepDims ? 1 : 0 });
}

/** Matrix product `a·b` over the last two dimensions; the others broadcast. */
export const matMul: (g: Graph, a: Value, b: Value) => Value = (g, a, b) => one(g, "MatMul", [a, b]);

/** `alpha·op(a)·op(b) + beta·c` of matrices. */
export function gemm(
  g: Graph,
  a: Value,
  b: Value,
  options: {
    readonly c?: Value;
    readonly transA?: boolean;
    readonly transB?: boolean;
    readonly alpha?: number;
    readonly beta?: number;
  } = {},
): Value {
  const attributes: Record<string, Attribute> = {};
  if (options.transA) attributes.transA = 1;
  if (options.transB) attributes.transB = 1;
  if (options.alpha !== undefined) attributes.alpha = { float: options.alpha };
  if (options.beta !== undefined) attributes.beta = { float: options.beta };
  return one(g, "Gemm", options.c === undefined ? [a, b] : [a, b, options.c], attributes);
}

/** `a + b`. */
export const add: (g: Graph, a: Operand, b: Operand) => Value = binary("Add");
/** `a − b`. */
export const sub: (g: Graph, a: Operand, b: Operand) => Value = binary("Sub");
/** `a ⊙ b`. */
export const mul: (g: Graph, a: Operand, b: Operand) => Value = binary("Mul");
/** `a / b`; integers are divided toward zero. */
export const div: (g: Graph, a: Operand, b: Operand) => Value = binary("Div");
/** `a` to the power `b`. */
export const pow: (g: Graph, a: Operand, b: Operand) => Value = binary("Pow");
/** Remainder with the divisor's sign; integers only. */
export const mod: (g: Graph, a: Operand, b: Operand) => Value = binary("Mod");
/** `a > b`, bool. */
export const greater: (g: Graph, a: Operand, b: Operand) => Value = binary("Greater");
/** `a ≥ b`, bool. */
export const greaterOrEqual: (g: Graph, a: Operand, b: Operand) => Value = binary("GreaterOrEqual");
/** `a < b`, bool. */
export const less: (g: Graph, a: Operand, b: Operand) => Value = binary("Less");
/** `a ≤ b`, bool. */
export const lessOrEqual: (g: Graph, a: Operand, b: Operand) => Value = binary("LessOrEqual");
/** `a = b`, bool. */
export const equal: (g: Graph, a: Operand, b: Operand) => Value = binary("Equal");
/** Bool and. */
export const and: (g: Graph, a: Value, b: Value) => Value = binary("And");
/** Bool or. */
export const or: (g: Graph, a: Value, b: Value) => Value = binary("Or");
/** Bitwise and of integers. */
export const bitwiseAnd: (g: Graph, a: Operand, b: Operand) => Value = binary("BitwiseAnd");
/** Bitwise or of integers. */
export const bitwiseOr: (g: Graph, a: Operand, b: Operand) => Value = binary("BitwiseOr");
/** Bitwise exclusive or of integers. */
export const bitwiseXor: (g: Graph, a: Operand, b: Operand) => Value = binary("BitwiseXor");

/** Unsigned integers shifted by `by` bits. */
export function bitShift(g: Graph, x: Value, by: Operand, direction: "LEFT" | "RIGHT"): Value {
  return one(g, "BitShift", operands(g, [x, by]), { direction });
}

/** Largest of the operands, element by element. */
export function max(g: Graph, ...list: readonly Operand[]): Value {
  return one(g, "Max", operands(g, list));
}

/** Smallest of the operands, element by element. */
export function min(g: Graph, ...list: readonly Operand[]): Value {
  return one(g, "Min", operands(g, list));
}

/** Sum of the operands; one operand is returned as it is. */
export function sum(g: Graph, ...list: readonly Value[]): Value {
  return list.length === 1 ? list[0] : one(g, "Sum", list);
}

/** `|x|`. */
export const abs: (g: Graph, x: Value) => Value = unary("Abs");
/** `−x`. */
export const neg: (g: Graph, x: Value) => Value = unary("Neg");
/** −1, 0 or 1. */
export const sign: (g: Graph, x: Value) => Value = unary("Sign");
/** `√x`. */
export const sqrt: (g: Graph, x: Value) => Value = unary("Sqrt");
/** `eˣ`. */
export const exp: (g: Graph, x: Value) => Value = unary("Exp");
/** Natural logarithm. */
export const log: (g: Graph, x: Value) => Value = unary("Log");
/** Sine. */
export const sin: (g: Graph, x: Value) => Value = unary("Sin");
/** Cosine. */
export const cos: (g: Graph, x: Value) => Value = unary("Cos");
/** Hyperbolic tangent. */
export const tanh: (g: Graph, x: Value) => Value = unary("Tanh");
/** `1/(1+e⁻ˣ)`. */
export const sigmoid: (g: Graph, x: Value) => Value = unary("Sigmoid");
/** Gauss's error function. */
export const erf: (g: Graph, x: Value) => Value = unary("Erf");
/** `max(x, 0)`. */
export const relu: (g: Graph, x: Value) => Value = unary("Relu");
/** `1/x`. */
export const reciprocal: (g: Graph, x: Value) => Value = unary("Reciprocal");
/** Largest integer not above x. */
export const floor: (g: Graph, x: Value) => Value = unary("Floor");
/** Smallest integer not below x. */
export const ceil: (g: Graph, x: Value) => Value = unary("Ceil");
/** Nearest integer, halves to even. */
export const round: (g: Graph, x: Value) => Value = unary("Round");
/** `log(1+eˣ)`. */
export const softplus: (g: Graph, x: Value) => Value = unary("Softplus");
/** Bool not. */
export const not: (g: Graph, x: Value) => Value = unary("Not");
/** The same value under another name. */
export const identity: (g: Graph, x: Value) => Value = unary("Identity");
/** Whether elements are NaN, bool. */
export const isNaN: (g: Graph, x: Value) => Value = unary("IsNaN");

/** `condition ? a : b`, element by element. */
export function where(g: Graph, condition: Value, a: Operand, b: Operand): Value {
  return one(g, "Where", [condition, ...operands(g, [a, b])]);
}

/** `x` limited to `[low, high]`. */
export function clip(g: Graph, x: Value, low?: number, high?: number): Value {
  const bounds = [low, high].map((bound) => (bound === undefined ? undefined : scalarLike(g, bound, x)));
  return one(g, "Clip", bounds[1] === undefined ? [x, bounds[0]] : [x, ...bounds]);
}

/** Sum over `axes` (all by default); dimensions are kept as 1 unless `keepDims` is false. */
export const reduceSum: (g: Graph, x: Value, axes?: readonly number[], keepDims?: boolean) => Value = reduction(
  "ReduceSum",
);
/** Mean over `axes`. */
export const reduceMean: (g: Graph, x: Value, axes?: readonly number[], keepDims?: boolean) => Value = reduction(
  "ReduceMean",
);
/** Largest over `axes`. */
export const reduceMax: (g: Graph, x: Value, axes?: readonly number[], keepDims?: boolean) => Value = reduction(
  "ReduceMax",
);
/** Smallest over `axes`. */
export const reduceMin: (g: Graph, x: Value, axes?: readonly number[], keepDims?: boolean) => Value = reduction(
  "ReduceMin",
);
/** Sum of squares over `axes`. */
export const reduceSumSquare: (g: Graph, x: Value, axes?: readonly number[], keepDims?: boolean) => Value = reduction(
  "ReduceSumSquare",
);
/** `log Σ eˣ` over `axes`. */
export const reduceLogSumExp: (g: Graph, x: Value, axes?: readonly number[], keepDims?: boolean) => Value = reduction(
  "ReduceLogSumExp",
);

/** Index of the largest element along `axis`, int64. */
export function argMax(g: Graph, x: Value, axis = -1, keepDims = false): Value {
  return one(g, "ArgMax", [x], { axis, keepdims: keepDims ? 1 : 0 });
}

/** The `k` largest elements along `axis` and their int64 indices. */
export function topK(
  g: Graph,
  x: Value,
  k: number,
  axis = -1,
  options: { readonly largest?: boolean } = {},
): [Value, Value] {
  const [values, indices] = g.node("TopK", [x, int64s(g, [k])], { axis, largest: options.largest === false ? 0 : 1 });
  return [values, indices];
}

/** Softmax along `axis`. */
export const softmax: (g: Graph, x: Value, axis?: number) => Value = (g, x, axis = -1) =>
  one(g, "Softmax", [x], { axis });
/** Logarithm of softmax along `axis`. */
export const logSoftmax: (g: Graph, x: Value, axis?: number) => Value = (g, x, axis = -1) =>
  one(g, "LogSoftmax", [x], { axis });
/** Running sum along `axis`. */
export const cumSum: (g: Graph, x: Value, axis: number) => Value = (g, x, axis) =>
  one(g, "CumSum", [x, int64(g, axis)]);

/** Slices of `x` along `axis` at `indices` (any shape, int64 or int32). */
export function gather(g: Graph, x: Value, indices: Value, axis = 0): Value {
  return one(g, "Gather", [x, indices], { axis });
}

/** Elements of `x` along `axis` at `indices`, which has the rank of `x`. */
export function gatherElements(g: Graph, x: Value, indices: Value, axis = -1): Value {
  return one(g, "GatherElements", [x, indices], { axis });
}

/** Slices of `x` at coordinate vectors. */
export function gatherND(g: Graph, x: Value, indices: Value, batchDims = 0): Value {
  return one(g, "GatherND", [x, indices], { batch_dims: batchDims });
}

/** How updates meet what is there. */
export type ScatterReduction = "none" | "add" | "mul" | "max" | "min";

/** `x` with `updates` written at `indices` along `axis`. */
export function scatterElements(
  g: Graph,
  x: Value,
  indices: Value,
  updates: Value,
  axis = 0,
  reduction: ScatterReduction = "none",
): Value {
  return one(g, "ScatterElements", [x, indices, updates], { axis, reduction });
}

/** `x` with `updates` written at coordinate vectors. */
export function scatterND(
  g: Graph,
  x: Value,
  indices: Value,
  updates: Value,
  reduction: ScatterReduction = "none",
): Value {
  return one(g, "ScatterND", [x, indices, updates], { reduction });
}

/** Values joined along `axis`. */
export function concat(g: Graph, values: readonly Value[], axis: number): Value {
  return one(g, "Concat", values, { axis });
}

/** `x[start:end:step]` along one axis; `end` defaults to the end. Bounds may be 1-element int64 values. */
export function slice(g: Graph, x: Value, axis: number, start: Operand, end: Operand = 2 ** 31 - 1, step = 1): Value {
  const vector = (bound: Operand) => (typeof bound === "number" ? int64s(g, [bound]) : bound);
  const inputs = [x, vector(start), vector(end), int64s(g, [axis])];
  return one(g, "Slice", step === 1 ? inputs : [...inputs, int64s(g, [step])]);
}

/** `x` cut along `axis` into pieces of `sizes`. */
export function split(g: Graph, x: Value, axis: number, sizes: readonly number[]): readonly Value[] {
  return g.node("Split", [x, int64s(g, sizes)], { axis });
}

/** Dimensions of `x` in the order `order`. */
export function transpose(g: Graph, x: Value, order: readonly number[]): Value {
  return one(g, "Transpose", [x], { perm: order });
}

/** The same elements in another shape: 0 copies the dimension of `x`, −1 takes what is left; or an int64 vector value. */
export function reshape(g: Graph, x: Value, shape: readonly number[] | Value): Value {
  return one(g, "Reshape", [x, "name" in shape ? shape : int64s(g, shape)]);
}

/** `x` broadcast to `shape`. */
export function expand(g: Graph, x: Value, shape: readonly number[] | Value): Value {
  return one(g, "Expand", [x, "name" in shape ? shape : int64s(g, shape)]);
}

/** `x` with dimensions of 1 at `axes` of the result. */
export function unsqueeze(g: Graph, x: Value, axes: readonly number[]): Value {
  return one(g, "Unsqueeze", [x, int64s(g, axes)]);
}

/** `x` without its dimensions of 1 at `axes`. */
export function squeeze(g: Graph, x: Value, axes: readonly number[]): Value {
  return one(g, "Squeeze", [x, int64s(g, axes)]);
}

/** `x` in another type; returned as it is when it has that type. */
export function cast(g: Graph, x: Value, dtype: DType): Value {
  return x.dtype === dtype ? x : one(g, "Cast", [x], { to: ONNX_TYPES[dtype] });
}

/** Dimensions `[start, end)` of `x` as an int64 vector. */
export function shape(g: Graph, x: Value, start = 0, end?: number): Value {
  return one(g, "Shape", [x], end === undefined ? { start } : { start, end });
}

/** Numbers from `start` to below `limit` in steps; scalars of one type. */
export function range(g: Graph, start: Operand, limit: Operand, delta: Operand = 1): Value {
  return one(g, "Range", operands(g, [start, limit, delta]));
}

/** Upper (default) or lower triangle of the last two dimensions, the rest 0; `diagonal` shifts it. */
export function trilu(
  g: Graph,
  x: Value,
  options: { readonly upper?: boolean; readonly diagonal?: number } = {},
): Value {
  const { upper = true, diagonal = 0 } = options;
  return one(g, "Trilu", diagonal === 0 ? [x] : [x, int64(g, diagonal)], { upper: upper ? 1 : 0 });
}

/** `x` repeated along each dimension. */
export function tile(g: Graph, x: Value, repeats: readonly number[]): Value {
  return one(g, "Tile", [x, int64s(g, repeats)]);
}

/** `x` with constant borders: `pads` are all begins, then all ends. */
export function pad(g: Graph, x: Value, pads: readonly number[], value = 0): Value {
  return one(g, "Pad", [x, int64s(g, pads), scalarLike(g, value, x)]);
}

/** A tensor of one number; `dims` is an int64 vector value or a list. */
export function fill(g: Graph, dims: readonly number[] | Value, value: number, dtype: DType = "float32"): Value {
  return one(g, "ConstantOfShape", ["name" in dims ? dims : int64s(g, dims)], {
    value: { tensor: { dtype, shape: [1], data: arrayOf(dtype, [value]) } },
  });
}

/** Normal random numbers, seeded: the same graph gives the same sequence of numbers in a new session. */
export function randomNormal(
  g: Graph,
  dims: readonly number[],
  seed: number,
  dtype: "float32" | "float64" = "float32",
): Value {
  const floatSeed: AttributeFloat = { float: seed };
  return one(g, "RandomNormal", [], { shape: dims, seed: floatSeed, dtype: ONNX_TYPES[dtype] });
}

/** One branch or the other by a bool scalar; branches are graphs made with `outer`, with outputs of equal types. */
export function ifElse(g: Graph, condition: Value, then: Graph, otherwise: Graph): readonly Value[] {
  return g.node("If", [condition], { then_branch: { graph: then }, else_branch: { graph: otherwise } }, {
    outputs: then.graphOutputs.map(({ dtype, shape }) => ({ dtype, shape })),
  });
}

/**
 * Repeats `body` (a graph made with `outer`): its inputs are an int64 scalar iteration number, a bool scalar, and the
 * carried values; its outputs a bool scalar (go on) and the carried values.
 *
 * @param count int64 scalar value.
 * @returns The carried values after the last repetition.
 */
export function loop(g: Graph, count: Value, carried: readonly Value[], body: Graph): readonly Value[] {
  return g.node("Loop", [count, undefined, ...carried], { body: { graph: body } }, {
    outputs: carried.map(({ dtype, shape }) => ({ dtype, shape })),
  });
}

/**
 * Runs `body` over the first dimension of `scanned`: its inputs are the states, then one slice of each scanned value;
 * its outputs the states, then what is stacked.
 *
 * @returns Last states, then the stacked outputs `[steps, …]`.
 */
export function scan(g: Graph, states: readonly Value[], scanned: readonly Value[], body: Graph): readonly Value[] {
  const steps: Dim = scanned[0].shape[0];
  return g.node("Scan", [...states, ...scanned], { body: { graph: body }, num_scan_inputs: scanned.length }, {
    outputs: body.graphOutputs.map(({ dtype, shape: dims }, index) => ({
      dtype,
      shape: index < states.length ? dims : [steps, ...dims],
    })),
  });
}
