/**
 * What the searches on the signs of one factor begin with, scales and the other factor fixed.
 *
 * @module
 */
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import { gemm, mul, sub, transpose } from "../../../pipeline/graph/ops.ts";

/** The inputs of {@linkcode ./sign_descent.ts signDescentGraph}, of which f and p are made. */
export interface SignProblem {
  /** Columns of the factor: m of `"B"`, n of `"A"`. */
  readonly p: number;
  /** `(n, m)`. */
  readonly w: Value;
  /** The other factor with its scales and `mid`, `(k, q)`. */
  readonly f: Value;
  /** `(k, p)`. */
  readonly signs: Value;
  /** `(1, p)`. */
  readonly scale: Value;
}

/** Declares the inputs. */
export function signProblem(g: Graph, n: number, m: number, k: number, side: "A" | "B"): SignProblem {
  const p = side === "B" ? m : n, q = side === "B" ? n : m;
  const w = g.input("w", "float32", [n, m]);
  const fixed = g.input("fixed", "float32", [k, q]), fixedScale = g.input("fixedScale", "float32", [1, q]);
  const mid = g.input("mid", "float32", [k, 1]);
  const signs = g.input("signs", "float32", [k, p]), scale = g.input("scale", "float32", [1, p]);
  return { p, w, f: mul(g, mul(g, fixed, fixedScale), mid), signs, scale };
}

/** Columns as rows, as the last dimension is the one that is searched. */
export interface SignRows {
  /** F·Fᵀ, `(k, k)`. */
  readonly gram: Value;
  /** B̃ = B ⊙ b transposed, `(p, k)`. */
  readonly start: Value;
  /** G·B̃ − C transposed, `(p, k)`. */
  readonly residual: Value;
}

/** The quadratic problem of every column. */
export function signRows(g: Graph, { w, f, signs, scale }: SignProblem, side: "A" | "B"): SignRows {
  const gram = gemm(g, f, f, { transB: true });
  const start = transpose(g, mul(g, signs, scale), [1, 0]);
  const cross = gemm(g, w, f, { transA: side === "B", transB: true });
  return { gram, start, residual: sub(g, gemm(g, start, gram), cross) };
}
