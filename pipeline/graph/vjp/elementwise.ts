/**
 * Gradients of elementwise operators. Broadcast inputs get their gradient summed back to their own shape.
 *
 * @module
 */
import type { Graph, Value } from "../types.ts";
import { op, scalar, unbroadcast, type VjpContext, type VjpRule, zerosLike } from "./rule.ts";

const mul = (g: Graph, a: Value, b: Value): Value => op(g, "Mul", [a, b]);

/** A rule for y = f(x) from the expression of dx = g ⊙ f′. */
function unary(derivative: (g: Graph, gradient: Value, x: Value, y: Value) => Value): VjpRule {
  return ({ g, node, gradients }) => [derivative(g, gradients[0]!, node.inputs[0]!, node.outputs[0])];
}

/** A rule for z = f(x, y) with broadcasting; each side's expression is only built where needed. */
function binary(
  left: (g: Graph, gradient: Value, x: Value, y: Value, z: Value) => Value,
  right: (g: Graph, gradient: Value, x: Value, y: Value, z: Value) => Value,
): VjpRule {
  return ({ g, node, gradients, needed }) => {
    const [x, y] = node.inputs as readonly Value[];
    return [left, right].map((side, index) =>
      needed(index) ? unbroadcast(g, side(g, gradients[0]!, x, y, node.outputs[0]), [x, y][index].shape) : undefined
    );
  };
}

/** d(x^c) = c·x^(c−1) for a constant c, and d/dc = y·ln x. */
function pow({ g, node, gradients, needed }: VjpContext): (Value | undefined)[] {
  const [x, exponent] = node.inputs as readonly Value[];
  const gradient = gradients[0]!;
  const constant = g.constants.get(exponent.name);
  const c = constant !== undefined && constant.data.length === 1 ? Number(constant.data[0]) : undefined;
  let dx: Value | undefined;
  if (needed(0)) {
    if (c === 2) dx = mul(g, mul(g, gradient, x), scalar(g, 2, x.dtype));
    else {
      const less = c === undefined
        ? op(g, "Sub", [exponent, scalar(g, 1, exponent.dtype)])
        : scalar(g, c - 1, exponent.dtype);
      dx = mul(g, mul(g, gradient, exponent), op(g, "Pow", [x, less]));
    }
    dx = unbroadcast(g, dx, x.shape);
  }
  const dc = needed(1)
    ? unbroadcast(g, mul(g, gradient, mul(g, node.outputs[0], op(g, "Log", [x]))), exponent.shape)
    : undefined;
  return [dx, dc];
}

/** Where passes the gradient to the chosen side. */
function where({ g, node, gradients, needed }: VjpContext): (Value | undefined)[] {
  const [condition, x, y] = node.inputs as readonly Value[];
  const gradient = gradients[0]!;
  const zero = scalar(g, 0, gradient.dtype);
  return [
    undefined,
    needed(1) ? unbroadcast(g, op(g, "Where", [condition, gradient, zero]), x.shape) : undefined,
    needed(2) ? unbroadcast(g, op(g, "Where", [condition, zero, gradient]), y.shape) : undefined,
  ];
}

/** GELU′ = Φ(x) + x·φ(x), or the derivative of its tanh approximation. */
function gelu({ g, node, gradients }: VjpContext): Value[] {
  const x = node.inputs[0]!;
  const num = (value: number) => scalar(g, value, x.dtype);
  const square = mul(g, x, x);
  if (node.attributes.approximate !== "tanh") {
    const half = mul(g, op(g, "Add", [op(g, "Erf", [mul(g, x, num(Math.SQRT1_2))]), num(1)]), num(0.5));
    const density = mul(g, op(g, "Exp", [mul(g, square, num(-0.5))]), num(1 / Math.sqrt(2 * Math.PI)));
    return [mul(g, gradients[0]!, op(g, "Add", [half, mul(g, x, density)]))];
  }
  // u = √(2/π)(x + c·x³), y = ½x(1 + tanh u), y′ = ½(1 + t) + ½x(1 − t²)·√(2/π)(1 + 3c·x²)
  const c = 0.044715;
  const s = Math.sqrt(2 / Math.PI);
  const inner = mul(g, mul(g, x, op(g, "Add", [mul(g, square, num(c)), num(1)])), num(s));
  const t = op(g, "Tanh", [inner]);
  const slope = mul(g, op(g, "Add", [mul(g, square, num(3 * c)), num(1)]), num(s));
  const tail = mul(g, mul(g, x, op(g, "Sub", [num(1), mul(g, t, t)])), slope);
  return [mul(g, gradients[0]!, mul(g, op(g, "Add", [op(g, "Add", [t, num(1)]), tail]), num(0.5)))];
}

/** Larger (smaller) of two: the gradient goes to the side that was taken, to the first on a tie. */
function extremum(comparison: "GreaterOrEqual" | "LessOrEqual"): VjpRule {
  return ({ g, node, gradients, needed }) => {
    const [x, y] = node.inputs as readonly Value[];
    if (y === undefined) return [gradients[0]];
    if (node.inputs.length > 2) throw new TypeError(`Cannot differentiate ${node.type} of more than two inputs`);
    const first = op(g, comparison, [x, y]);
    const zero = scalar(g, 0, x.dtype);
    return [
      needed(0) ? unbroadcast(g, op(g, "Where", [first, gradients[0]!, zero]), x.shape) : undefined,
      needed(1) ? unbroadcast(g, op(g, "Where", [first, zero, gradients[0]!]), y.shape) : undefined,
    ];
  };
}

/** Rules by operator type. */
export const ELEMENTWISE_RULES: Readonly<Record<string, VjpRule>> = {
  Identity: ({ gradients }) => [gradients[0]],
  Add: binary((_, dz) => dz, (_, dz) => dz),
  Sub: binary((_, dz) => dz, (g, dz) => op(g, "Neg", [dz])),
  Mul: binary((g, dz, _x, y) => mul(g, dz, y), (g, dz, x) => mul(g, dz, x)),
  Div: binary(
    (g, dz, _x, y) => op(g, "Div", [dz, y]),
    (g, dz, _x, y, z) => op(g, "Neg", [op(g, "Div", [mul(g, dz, z), y])]),
  ),
  Pow: pow,
  Max: extremum("GreaterOrEqual"),
  Min: extremum("LessOrEqual"),
  Where: where,
  Gelu: gelu,
  Neg: unary((g, dy) => op(g, "Neg", [dy])),
  Abs: unary((g, dy, x) => mul(g, dy, op(g, "Sign", [x]))),
  Sqrt: unary((g, dy, x, y) => mul(g, op(g, "Div", [dy, y]), scalar(g, 0.5, x.dtype))),
  Reciprocal: unary((g, dy, _x, y) => op(g, "Neg", [mul(g, dy, mul(g, y, y))])),
  Exp: unary((g, dy, _x, y) => mul(g, dy, y)),
  Log: unary((g, dy, x) => op(g, "Div", [dy, x])),
  Sin: unary((g, dy, x) => mul(g, dy, op(g, "Cos", [x]))),
  Cos: unary((g, dy, x) => op(g, "Neg", [mul(g, dy, op(g, "Sin", [x]))])),
  Tanh: unary((g, dy, _x, y) => mul(g, dy, op(g, "Sub", [scalar(g, 1, y.dtype), mul(g, y, y)]))),
  Sigmoid: unary((g, dy, _x, y) => mul(g, dy, mul(g, y, op(g, "Sub", [scalar(g, 1, y.dtype), y])))),
  Erf: unary((g, dy, x) =>
    mul(g, dy, mul(g, op(g, "Exp", [op(g, "Neg", [mul(g, x, x)])]), scalar(g, 2 / Math.sqrt(Math.PI), x.dtype)))
  ),
  Relu: unary((g, dy, x) => {
    const positive = op(g, "Greater", [x, scalar(g, 0, x.dtype)]);
    return op(g, "Where", [positive, dy, scalar(g, 0, dy.dtype)]);
  }),
  Cast: unary((g, dy, x) => g.node("Cast", [dy], { to: castCode(x) })[0]),
  Sign: unary((g, _dy, x) => zerosLike(g, x)),
};

/** ONNX's TensorProto.DataType of a floating-point value. */
function castCode(value: Value): number {
  const code = { float32: 1, float16: 10, float64: 11, bfloat16: 16 }[value.dtype as string];
  if (code === undefined) throw new TypeError(`Cannot differentiate a Cast from ${value.dtype}`);
  return code;
}
