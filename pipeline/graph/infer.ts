/**
 * Types and shapes of what operators give, for the operators in the tables below; other operators state theirs.
 *
 * @module
 */
import type { DType } from "../../kernels/runtime/types.ts";
import { broadcast, numberAttribute, required, type Rule } from "./infer_rule.ts";
import { MOVEMENT_RULES } from "./infer_movement.ts";
import { REDUCTION_RULES } from "./infer_reduction.ts";

const same: Rule = (c) => [{ dtype: required(c, 0).dtype, shape: required(c, 0).shape }];

function elementwise(dtype?: DType, from = 0): Rule {
  return (c) => {
    const values = c.inputs.filter((value) => value !== undefined);
    const operands = values.slice(from);
    if (dtype === undefined && new Set(operands.map((value) => value.dtype)).size > 1 && c.type !== "BitShift") {
      throw new TypeError(
        `Cannot apply ${c.type} to different types: ${operands.map((v) => `${v.name} is ${v.dtype}`).join(", ")}`,
      );
    }
    return [{
      dtype: dtype ?? required(c, from).dtype,
      shape: broadcast(c.type, values.map((value) => value.shape), c.fresh),
    }];
  };
}

const matMul: Rule = (c) => {
  const a = required(c, 0), b = required(c, 1);
  if (a.dtype !== b.dtype && c.type === "MatMul") {
    throw new TypeError(`Cannot multiply ${a.name} (${a.dtype}) by ${b.name} (${b.dtype})`);
  }
  if (a.shape.length === 0 || b.shape.length === 0) {
    throw new RangeError("Cannot multiply scalars with MatMul: use mul");
  }
  const left = a.shape.length === 1 ? [1, ...a.shape] : a.shape;
  const right = b.shape.length === 1 ? [...b.shape, 1] : b.shape;
  const inner = left[left.length - 1], other = right[right.length - 2];
  if (typeof inner === "number" && typeof other === "number" && inner !== other) {
    throw new RangeError(`Cannot multiply [${a.shape.join(", ")}] (${a.name}) by [${b.shape.join(", ")}] (${b.name})`);
  }
  const shape = [...broadcast("MatMul", [left.slice(0, -2), right.slice(0, -2)], c.fresh)];
  if (a.shape.length > 1) shape.push(left[left.length - 2]);
  if (b.shape.length > 1) shape.push(right[right.length - 1]);
  return [{ dtype: c.type === "MatMulInteger" ? "int32" : a.dtype, shape }];
};

const gemm: Rule = (c) => {
  const a = required(c, 0), b = required(c, 1);
  const [rows, inner] = numberAttribute(c, "transA", 0) ? [a.shape[1], a.shape[0]] : a.shape;
  const [other, cols] = numberAttribute(c, "transB", 0) ? [b.shape[1], b.shape[0]] : b.shape;
  if (a.shape.length !== 2 || b.shape.length !== 2) throw new RangeError(`Cannot use Gemm on other than matrices`);
  if (typeof inner === "number" && typeof other === "number" && inner !== other) {
    throw new RangeError(`Cannot multiply in Gemm: inner sizes ${inner} (${a.name}) and ${other} (${b.name})`);
  }
  return [{ dtype: a.dtype, shape: [rows, cols] }];
};

const RULES: Record<string, Rule> = { MatMul: matMul, MatMulInteger: matMul, Gemm: gemm };
for (
  const type of [
    ..."Abs Neg Sign Sqrt Exp Log Sin Cos Tanh Sigmoid Erf Relu Reciprocal Floor Ceil Round Softplus Gelu Not".split(
      " ",
    ),
    ..."Identity Softmax LogSoftmax Clip CumSum Trilu BitwiseNot LeakyRelu RotaryEmbedding".split(" "),
    ..."LayerNormalization SimplifiedLayerNormalization RMSNormalization".split(" "),
  ]
) RULES[type] = same;
for (const type of "Add Sub Mul Div Mod Min Max Sum Mean BitwiseAnd BitwiseOr BitwiseXor BitShift".split(" ")) {
  RULES[type] = elementwise();
}
RULES.Pow = (c) => [{
  dtype: required(c, 0).dtype,
  shape: broadcast("Pow", [required(c, 0).shape, required(c, 1).shape], c.fresh),
}];
RULES.Where = elementwise(undefined, 1);
for (const type of "And Or Xor Greater Less Equal GreaterOrEqual LessOrEqual IsNaN IsInf".split(" ")) {
  RULES[type] = elementwise("bool");
}
Object.assign(RULES, MOVEMENT_RULES, REDUCTION_RULES);

/** The rule for an operator of ONNX's own domain, or undefined. */
export function inferenceRule(type: string): Rule | undefined {
  return Object.hasOwn(RULES, type) ? RULES[type] : undefined;
}
