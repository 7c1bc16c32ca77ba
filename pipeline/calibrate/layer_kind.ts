/**
 * How layers of one kind of factors enter block graphs: what of them is trained, what stays, and what they compute.
 *
 * @module
 */
import type { DType } from "../../kernels/runtime/types.ts";
import type { Graph, Value } from "../graph/types.ts";
import type { LinearDescription } from "../model/types.ts";
import type { CodeBits, Factors, SignMatrix } from "../stream/stage.ts";
import type { Segment } from "./parameters.ts";

/** The part of factors that decides a graph's structure; plain data, so that equal ones share a session. */
export type FactorsShape =
  | { readonly kind: "dbf"; readonly rank: number }
  | { readonly kind: "nbits"; readonly bits: CodeBits; readonly group: number }
  | { readonly kind: "sign" };

/** Rows and columns of a linear, and its role, which starts the names of its parts. */
export type LinearShape = Pick<LinearDescription, "role" | "rows" | "cols">;

/** A part of factors that training does not change: an input of its own. */
export interface FixedPart extends Segment {
  readonly dtype: DType;
}

/** One kind. Names of parts are `ROLE/PART`. */
export interface LayerKind<F extends Factors = Factors, S extends FactorsShape = FactorsShape> {
  shapeOf(factors: F): S;
  /** Continuous values of signs, in unit scale; gradients at the signs are taken for theirs. */
  latents(linear: LinearShape, shape: S): readonly Segment[];
  /** Scales, trained as they are. */
  scales(linear: LinearShape, shape: S): readonly Segment[];
  /** Parts that stay. */
  fixed(linear: LinearShape, shape: S): readonly FixedPart[];
  /**
   * y = x·Ŵᵀ, in the form that takes fewest operations for as many tokens.
   *
   * @param x `(tokens, cols)` f32, of known shape.
   * @param parts Signs (±1, in place of latents), scales and fixed parts by name.
   */
  product(g: Graph, x: Value, linear: LinearShape, shape: S, parts: ReadonlyMap<string, Value>): Value;
  /** Ŵ `(rows, cols)` f32. */
  weight(g: Graph, linear: LinearShape, shape: S, parts: ReadonlyMap<string, Value>): Value;
  /** Latents, in new arrays, and scales of factors, by name. */
  trained(role: string, factors: F): ReadonlyMap<string, Float32Array>;
  /** Fixed parts of factors, by name. */
  fixedData(role: string, factors: F): ReadonlyMap<string, Uint8Array>;
  /** Factors with trained latents and scales, copied out of `values`; `latents` says whether they keep the former. */
  restore(
    linear: LinearShape,
    before: F,
    values: ReadonlyMap<string, Float32Array>,
    options: { readonly latents: boolean },
  ): F;
  /** Sign matrices, for counting flips. */
  signs(factors: F): readonly SignMatrix[];
}
