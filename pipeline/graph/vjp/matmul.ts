/**
 * Gradients of matrix products.
 *
 * @module
 */
import type { AttributeFloat, Graph, Node, Value } from "../types.ts";
import { int64s, intAttribute, op, scalar, unbroadcast, type VjpContext, type VjpRule } from "./rule.ts";

/** Exchanges the last two axes. */
function transposeLast(g: Graph, value: Value): Value {
  const rank = value.shape.length;
  const perm = Array.from({ length: rank }, (_, axis) => axis);
  [perm[rank - 2], perm[rank - 1]] = [rank - 1, rank - 2];
  return op(g, "Transpose", [value], { perm });
}

/** Joins all axes but the last: `(…, n)` becomes `(rows, n)`. */
function flattenRows(g: Graph, value: Value): Value {
  if (value.shape.length === 2) return value;
  const last = value.shape[value.shape.length - 1];
  const known = value.shape.slice(0, -1).every((dim) => typeof dim === "number");
  const rows = known ? (value.shape.slice(0, -1) as number[]).reduce((a, b) => a * b, 1) : -1;
  if (typeof last === "number") return op(g, "Reshape", [value, int64s(g, [rows, last])]);
  throw new TypeError(`Cannot differentiate a product by "${value.name}" as its last dimension is not known`);
}

/** Y = A·B over broadcast batches: dA = dY·Bᵀ, dB = Aᵀ·dY. */
function matMul({ g, node, gradients, needed }: VjpContext): (Value | undefined)[] {
  const [a, b] = node.inputs as readonly Value[];
  const dy = gradients[0]!;
  if (a.shape.length < 2 || b.shape.length < 2) {
    throw new TypeError(`Cannot differentiate MatMul "${node.name}" as an operand is a vector: reshape it to a matrix`);
  }
  const da = needed(0) ? unbroadcast(g, op(g, "MatMul", [dy, transposeLast(g, b)]), a.shape) : undefined;
  let db: Value | undefined;
  if (needed(1)) {
    db = b.shape.length === 2
      // one product over all rows of all batches, without a batch of partial gradients
      ? op(g, "Gemm", [flattenRows(g, a), flattenRows(g, dy)], { transA: 1 })
      : unbroadcast(g, op(g, "MatMul", [transposeLast(g, a), dy]), b.shape);
  }
  return [da, db];
}

/** Float attribute of a node, or its default. */
function floatAttribute(node: Node, name: string, otherwise: number): number {
  const value = node.attributes[name];
  if (value === undefined) return otherwise;
  return typeof value === "object" && "float" in value ? (value as AttributeFloat).float : Number(value);
}

/** Y = α·op(A)·op(B) + β·C. */
function gemm({ g, node, gradients, needed }: VjpContext): (Value | undefined)[] {
  const [a, b, c] = node.inputs;
  const dy = gradients[0]!;
  const transA = intAttribute(node, "transA", 0);
  const transB = intAttribute(node, "transB", 0);
  const alpha = { float: floatAttribute(node, "alpha", 1) };
  const beta = floatAttribute(node, "beta", 1);
  const product = (x: Value, y: Value, tx: number, ty: number) =>
    op(g, "Gemm", [x, y], { alpha, transA: tx, transB: ty });
  let da: Value | undefined;
  let db: Value | undefined;
  let dc: Value | undefined;
  if (needed(0)) da = transA ? product(b!, dy, transB, 1) : product(dy, b!, 0, 1 - transB);
  if (needed(1)) db = transB ? product(dy, a!, 1, transA) : product(a!, dy, 1 - transA, 0);
  if (c !== undefined && needed(2)) {
    const scaled = beta === 1 ? dy : op(g, "Mul", [dy, scalar(g, beta, dy.dtype)]);
    dc = unbroadcast(g, scaled, c.shape);
  }
  return [da, db, dc];
}

/** Rules by operator type. */
export const MATMUL_RULES: Readonly<Record<string, VjpRule>> = { MatMul: matMul, Gemm: gemm };
