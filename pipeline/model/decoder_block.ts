/**
 * One decoder block as a graph: the same for export, calibration and differentiation.
 *
 * @module
 */
import type { DType } from "../../kernels/runtime/types.ts";
import { gelu, geluTanh, rmsNorm, silu } from "../graph/compose.ts";
import { add, cast, mul, split } from "../graph/ops.ts";
import type { Graph, Value } from "../graph/types.ts";
import { attention, type KeyValue, type KeyValueCache, type Projections } from "./decoder_attention.ts";
import type { BlockContext } from "./decoder_context.ts";
import type { BlockDescription, LinearDescription, ModelDescription } from "./types.ts";

/** What fills a block: how its linears and norm weights come into the graph. */
export interface BlockWeights {
  /**
   * `x·Wᵀ + bias`, however the layer is stored.
   *
   * @param x `[batch, sequence, cols]` of the products' type.
   * @returns `[batch, sequence, rows]` of the same type.
   */
  linear(g: Graph, linear: LinearDescription, x: Value): Value;
  /** A norm's weight as the checkpoint has it, `[length]` f32. */
  vector(g: Graph, name: string, length: number): Value;
}

/**
 * Attention of a block in place of the one from primitive operators.
 *
 * @param normalize Norms by head, of f32 whose last dimension is headDim.
 * @returns `output` `[batch, sequence, heads·headDim]` and the keys and values to keep.
 */
export type BlockAttention = (
  block: BlockDescription,
  projections: Projections,
  normalize: (place: "query" | "key", x: Value) => Value,
) => { readonly output: Value; readonly present: KeyValue };

/** What runs through a block. */
export type BlockInputs =
  & {
    /** Residual stream `[batch, sequence, hidden]` f32. */
    readonly hidden: Value;
  }
  & ({
    readonly context: BlockContext;
    /** Brings in earlier keys and values; without it the run sees its own. */
    readonly cache?: KeyValueCache;
  } | {
    readonly attend: BlockAttention;
  });

/** What a block gives. */
export interface BlockOutputs {
  /** `[batch, sequence, hidden]` f32. */
  readonly hidden: Value;
  readonly present: KeyValue;
}

const ACTIVATIONS = { silu, gelu, gelu_tanh: geluTanh };

/** The last part of a role: `"self_attn.q_proj"` → `"q_proj"`. */
function shortRole(role: string): string {
  return role.slice(role.lastIndexOf(".") + 1);
}

/**
 * RMSNorm with the model's ε, of `(1 + weight)` where the model says so.
 *
 * @param x `[…, length]` f32.
 */
export function modelNorm(g: Graph, model: ModelDescription, weights: BlockWeights, name: string, x: Value): Value {
  const weight = weights.vector(g, name, x.shape[x.shape.length - 1] as number);
  return rmsNorm(g, x, model.normAddsOne ? add(g, weight, 1) : weight, model.normEpsilon);
}

/**
 * Adds one block to a graph.
 *
 * @param dtype Type of products and of cached keys and values; the residual stream, norms, rotation and softmax are f32.
 * @throws {RangeError} when the description lacks a linear that it needs.
 */
export function buildBlock(
  g: Graph,
  model: ModelDescription,
  block: BlockDescription,
  weights: BlockWeights,
  inputs: BlockInputs,
  dtype: DType = "float32",
): BlockOutputs {
  const linears = new Map(block.linears.map((linear) => [shortRole(linear.role), linear]));
  const apply = (role: string, x: Value) => {
    const linear = linears.get(role);
    if (linear === undefined) {
      throw new RangeError(`Cannot build block ${block.index} of ${model.architecture}: it has no ${role}`);
    }
    return g.scope(role, () => weights.linear(g, linear, x));
  };
  const joined = (role: string, x: Value, parts: readonly { readonly role: string; readonly size: number }[]) =>
    linears.has(role)
      ? split(g, apply(role, x), 2, parts.map(({ size }) => size))
      : parts.map((part) => apply(part.role, x));
  const norm = (name: string | undefined, x: Value) =>
    name === undefined ? x : g.scope("norm", () => modelNorm(g, model, weights, name, x));
  // residual ← residual + residualScale · norm(sublayer)
  const merge = (residual: Value, sublayer: Value, name: string | undefined) => {
    const normal = norm(name, cast(g, sublayer, "float32"));
    return add(g, residual, model.residualScale === 1 ? normal : mul(g, normal, model.residualScale));
  };

  return g.scope(`block.${block.index}`, () => {
    const attended = g.scope("attention", () => {
      const x = cast(g, norm(block.norms.beforeAttention, inputs.hidden), dtype);
      const kvSize = model.kvHeads * model.headDim;
      let [query, key, value] = joined("qkv_proj", x, [
        { role: "q_proj", size: model.heads * model.headDim },
        { role: "k_proj", size: kvSize },
        { role: "v_proj", size: kvSize },
      ]);
      const whole = block.qkNormScope === "full";
      if (whole) {
        query = cast(g, norm(block.norms.query, cast(g, query, "float32")), dtype);
        key = cast(g, norm(block.norms.key, cast(g, key, "float32")), dtype);
      }
      const byHead = (place: "query" | "key", heads: Value) => (whole ? heads : norm(block.norms[place], heads));
      const projections = { query, key, value };
      const result = "attend" in inputs
        ? inputs.attend(block, projections, byHead)
        : attention(g, model, block, inputs.context, projections, byHead, inputs.cache);
      return { output: apply("o_proj", result.output), present: result.present };
    });
    const middle = merge(inputs.hidden, attended.output, block.norms.afterAttention);
    const fed = g.scope("mlp", () => {
      const x = cast(g, norm(block.norms.beforeMlp, middle), dtype);
      const size = model.intermediateSize;
      const [gate, up] = joined("gate_up_proj", x, [{ role: "gate_proj", size }, { role: "up_proj", size }]);
      return apply("down_proj", mul(g, ACTIVATIONS[model.activation](g, gate), up));
    });
    return { hidden: merge(middle, fed, block.norms.afterMlp), present: attended.present };
  });
}
