/**
 * ONNX model-local functions as data: the graph encoder writes them as FunctionProto.
 *
 * @module
 */
import type { DType, TensorData } from "../runtime/types.ts";

/** Attribute of a node inside a function: a value, or a reference to an attribute of the function. */
export type FunctionAttribute =
  | { readonly int: number }
  | { readonly ints: readonly number[] }
  | { readonly float: number }
  | { readonly string: string }
  | { readonly tensor: { readonly dtype: DType; readonly shape: readonly number[]; readonly data: TensorData } }
  /** Takes the value of the function's own attribute `ref`, of type `type` (FunctionProto's `ref_attr_name`). */
  | { readonly ref: string; readonly type: "int" | "ints" | "float" | "string" };

/** A node of a function body; `""` is ONNX's own domain, and an empty input name is an absent optional input. */
export interface FunctionNode {
  readonly type: string;
  readonly domain: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Readonly<Record<string, FunctionAttribute>>;
}

/** A model-local function: a body in standard operators for a custom operator. */
export interface OperatorFunction {
  readonly name: string;
  readonly domain: string;
  readonly description: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Attributes that a call must give. */
  readonly attributes: readonly string[];
  readonly nodes: readonly FunctionNode[];
  /** Versions of the domains that the body uses. */
  readonly opsets: readonly { readonly domain: string; readonly version: number }[];
}
