/**
 * Grouped-query attention from primitive operators, with rotary embedding.
 *
 * @module
 */
import type { Graph, Value } from "../graph/types.ts";
import { add, cast, concat, matMul, mul, reshape, softmax, split, sub, transpose } from "../graph/ops.ts";
import { softcap } from "../graph/compose.ts";
import type { BlockContext } from "./decoder_context.ts";
import type { BlockDescription, ModelDescription } from "./types.ts";

/** Keys and values of all tokens so far: `[batch, kvHeads, tokens, headDim]` each. */
export interface KeyValue {
  readonly key: Value;
  readonly value: Value;
}

/** Takes the keys and values of a run's tokens: gives all that its queries see, in pieces of known or equal length, and what is kept. */
export type KeyValueCache = (g: Graph, fresh: KeyValue) => {
  readonly seen: readonly KeyValue[];
  readonly present: KeyValue;
};

/** A cache that grows by every run's tokens, in one piece. */
export function growingCache(past: KeyValue): KeyValueCache {
  return (g, fresh) => {
    const key = concat(g, [past.key, fresh.key], 2);
    const all = { key, value: concat(g, [past.value, fresh.value], 2) };
    return { seen: [all], present: all };
  };
}

/**
 * Rotates the leading dimensions of heads (Su et al., arXiv 2104.09864; halves, not neighbours, as Hugging Face stores them).
 *
 * @param x `[batch, heads, sequence, headDim]` f32.
 * @param context Its `rotation` gives cos and sin, `[batch, 1, sequence, rotaryDim/2]`.
 */
export function rotate(g: Graph, x: Value, rotation: NonNullable<BlockContext["rotation"]>): Value {
  const headDim = x.shape[3] as number, half = rotation.cos.shape[3] as number;
  const sizes = headDim > 2 * half ? [half, half, headDim - 2 * half] : [half, half];
  const [left, right, ...rest] = split(g, x, 3, sizes);
  // (l, r) ← (l·cos − r·sin, r·cos + l·sin)
  const turnedLeft = sub(g, mul(g, left, rotation.cos), mul(g, right, rotation.sin));
  const turnedRight = add(g, mul(g, right, rotation.cos), mul(g, left, rotation.sin));
  return concat(g, [turnedLeft, turnedRight, ...rest], 3);
}

/** Queries, keys and values of a block by head, rotated and scaled. */
export interface Heads extends KeyValue {
  /** `[batch, heads, sequence, headDim]`, times the attention's scale. */
  readonly query: Value;
}

/** Projections of a block, `[batch, sequence, heads·headDim]`, of keys and values kvHeads, of the products' type. */
export interface Projections {
  readonly query: Value;
  readonly key: Value;
  readonly value: Value;
}

/**
 * Cuts projections into heads, normalizes and rotates.
 *
 * @param normalize Norms of queries and keys by head, where the block has them: takes `[batch, heads, sequence, headDim]` f32.
 */
export function headsOf(
  g: Graph,
  { heads, kvHeads, headDim, attentionScale }: ModelDescription,
  block: BlockDescription,
  rotation: BlockContext["rotation"],
  projections: Projections,
  normalize: (place: "query" | "key", x: Value) => Value,
): Heads {
  const dtype = projections.query.dtype;
  const byHead = (x: Value, count: number) => transpose(g, reshape(g, x, [0, 0, count, headDim]), [0, 2, 1, 3]);
  const place = (which: "query" | "key", x: Value) => {
    const normal = normalize(which, cast(g, x, "float32"));
    return rotation === undefined || block.rope === undefined ? normal : rotate(g, normal, rotation);
  };
  return {
    query: cast(g, mul(g, place("query", byHead(projections.query, heads)), attentionScale), dtype),
    key: cast(g, place("key", byHead(projections.key, kvHeads)), dtype),
    value: byHead(projections.value, kvHeads),
  };
}

/**
 * Values that queries attend to. Scores and softmax are in f32.
 *
 * @param query `[batch, heads, sequence, headDim]`.
 * @param seen Keys and values that the mask is for; of several pieces the lengths are numbers.
 * @returns `[batch, sequence, heads·headDim]`.
 */
export function attend(
  g: Graph,
  { heads, kvHeads, headDim, attentionSoftcap }: ModelDescription,
  { mask, scoreShape, rowShape }: Omit<BlockContext, "rotation">,
  query: Value,
  seen: readonly KeyValue[],
): Value {
  const { dtype } = query;
  // The heads that share keys are rows of one product: [batch, kvHeads, groups·sequence, headDim]. Nothing is repeated.
  const rows = reshape(g, query, [0, kvHeads, -1, headDim]);
  const products = seen.map((piece) => matMul(g, rows, transpose(g, piece.key, [0, 1, 3, 2])));
  let scores = cast(g, products.length === 1 ? products[0] : concat(g, products, 3), "float32");
  if (attentionSoftcap !== undefined) scores = softcap(g, scores, attentionSoftcap);
  const grouped = reshape(g, scores, scoreShape);
  const masked = add(g, grouped, mask);
  // [batch, kvHeads, groups, sequence, total] → rows again
  const weights = reshape(g, cast(g, softmax(g, masked), dtype), rowShape);
  const parts = seen.length === 1
    ? [weights]
    : split(g, weights, 3, seen.map((piece) => piece.value.shape[2] as number));
  const sums = parts.map((part, at) => matMul(g, part, seen[at].value));
  const mixed = reshape(g, sums.reduce((all, each) => add(g, all, each)), [0, heads, -1, headDim]);
  return reshape(g, transpose(g, mixed, [0, 2, 1, 3]), [0, 0, heads * headDim]);
}

/**
 * Attention of one block after its projections.
 *
 * @param normalize As for {@linkcode headsOf}.
 * @param cache Brings in earlier keys and values; where they are in several pieces, their lengths are numbers.
 * @returns `[batch, sequence, heads·headDim]` and the keys and values to keep.
 */
export function attention(
  g: Graph,
  model: ModelDescription,
  block: BlockDescription,
  context: BlockContext,
  projections: Projections,
  normalize: (place: "query" | "key", x: Value) => Value,
  cache: KeyValueCache = (_, fresh) => ({ seen: [fresh], present: fresh }),
): { readonly output: Value; readonly present: KeyValue } {
  const { query, key, value } = headsOf(g, model, block, context.rotation, projections, normalize);
  const { seen, present } = cache(g, { key, value });
  return { output: attend(g, model, context, query, seen), present };
}
