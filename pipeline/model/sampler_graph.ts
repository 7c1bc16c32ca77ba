/**
 * A decoder that writes many windows of one length together: everything has a fixed size, so that nothing is copied or
 * allocated anew as the windows grow, and the next token is drawn in the graph.
 *
 * Keys and values are in two pieces. `old` has a place for every token of a window and is only read; `recent` has places for
 * a few and is copied in every step, each new token into its place. When it is full, its tokens go into `old` ({@linkcode buildMerge}).
 *
 * @module
 */
import { drawToken } from "../evaluate/choose_graph.ts";
import { createGraph } from "../graph/graph.ts";
import {
  add,
  and,
  concat,
  equal,
  int64,
  int64s,
  less,
  lessOrEqual,
  reduceMax,
  slice,
  squeeze,
  sub,
  unsqueeze,
  where,
} from "../graph/ops.ts";
import type { Graph, Value } from "../graph/types.ts";
import type { KeyValueCache } from "./decoder_attention.ts";
import { buildBlock } from "./decoder_block.ts";
import { type BlockContext, MASKED_SCORE, rotationOf } from "./decoder_context.ts";
import { buildEmbedding, buildHead, type DecoderWeights } from "./decoder_graph.ts";
import type { BlockDescription, ModelDescription } from "./types.ts";

/** Sizes of a sampler. */
export interface SamplerSizes {
  /** Places of `old`, a multiple of `recent`. */
  readonly capacity: number;
  /** Places of `recent`. */
  readonly recent: number;
}

/** Positions beyond any: of places that hold nothing yet. */
const NOWHERE = 2 ** 40;

const numbers = (g: Graph, count: number) =>
  g.constant(BigInt64Array.from({ length: count }, (_, at) => BigInt(at)), [count]);

/**
 * Builds the graph of one run.
 *
 * @param fresh Tokens a window of the run: 1 in a step; `recent`, of a prompt, where `recent` holds nothing before.
 * @param temperature Above 0: logits are divided by it.
 * @returns Inputs `input_ids` `[batch, fresh]` int64, `merged` and `held` `[]` int64 (tokens in `old`, and in `recent` before the run),
 *   `uniform` `[batch, 1]` f32 in [0, 1), `old.N.key/value` `[batch, kvHeads, capacity, headDim]` and, in a step, `recent.N.key/value`;
 *   outputs `token` `[batch]` int64, drawn from the distribution after the last token, `largest` `[batch]` f32, its largest logit, and `next.N.key/value`, the new `recent`.
 */
export function buildSampler(
  model: ModelDescription,
  weights: DecoderWeights,
  { capacity, recent, fresh, dtype, temperature }: SamplerSizes & {
    readonly fresh: number;
    readonly dtype: "f32" | "f16";
    readonly temperature: number;
  },
): Graph {
  if (fresh !== 1 && fresh !== recent) {
    throw new RangeError(`Cannot build a sampler for ${fresh} tokens a run: it takes 1 or ${recent}`);
  }
  const type = dtype === "f16" ? "float16" : "float32";
  const g = createGraph(`${model.architecture}_sampler_${fresh}`);
  const ids = g.input("input_ids", "int64", ["batch", fresh]);
  const merged = g.input("merged", "int64", []), held = g.input("held", "int64", []);
  const uniform = g.input("uniform", "float32", ["batch", 1]);
  const piece = (name: string, places: number) => {
    const shape = ["batch", model.kvHeads, places, model.headDim];
    return { key: g.input(`${name}.key`, type, shape), value: g.input(`${name}.value`, type, shape) };
  };
  const contextOf = samplerContext(g, model, { capacity, recent, fresh, merged, held });
  // In a step: where its token goes, [recent, 1].
  const isPlace = fresh === 1 ? unsqueeze(g, equal(g, numbers(g, recent), held), [1]) : undefined;
  let hidden = buildEmbedding(g, model, weights, ids);
  const kept = model.blocks.map((block, index) => {
    const old = piece(`old.${index}`, capacity);
    const before = isPlace === undefined ? undefined : piece(`recent.${index}`, recent);
    const cache: KeyValueCache = (_, own) => {
      const present = isPlace === undefined || before === undefined
        ? own
        : { key: where(g, isPlace, own.key, before.key), value: where(g, isPlace, own.value, before.value) };
      return { seen: [old, present], present };
    };
    const outputs = buildBlock(g, model, block, weights, { hidden, context: contextOf(block), cache }, type);
    hidden = outputs.hidden;
    return outputs.present;
  });
  const last = fresh === 1 ? hidden : slice(g, hidden, 1, fresh - 1);
  const row = squeeze(g, buildHead(g, model, weights, last, dtype), [1]);
  const largest = reduceMax(g, row, [1]);
  g.output("token", drawToken(g, row, largest, uniform, g.constant(temperature)));
  g.output("largest", squeeze(g, largest, [1]));
  kept.forEach(({ key, value }, index) => {
    g.output(`next.${index}.key`, key);
    g.output(`next.${index}.value`, value);
  });
  return g;
}

/** Positions, masks and shapes of a run, by block. */
function samplerContext(
  g: Graph,
  model: ModelDescription,
  { capacity, recent, fresh, merged, held }: SamplerSizes & {
    readonly fresh: number;
    readonly merged: Value;
    readonly held: Value;
  },
): (block: BlockDescription) => BlockContext {
  const queries = add(g, numbers(g, fresh), add(g, merged, held));
  const positions = unsqueeze(g, queries, [0]), column = unsqueeze(g, queries, [1]);
  const places = numbers(g, capacity);
  const keys = concat(g, [
    where(g, less(g, places, merged), places, int64(g, NOWHERE)),
    add(g, numbers(g, recent), merged),
  ], 0);
  const total = capacity + recent, groups = model.heads / model.kvHeads;
  const shapes = {
    scoreShape: int64s(g, [0, model.kvHeads, groups, fresh, total]),
    rowShape: int64s(g, [0, model.kvHeads, groups * fresh, total]),
  };
  const masks = new Map<number | undefined, Value>();
  const rotations = new Map<string, ReturnType<typeof rotationOf>>();
  return ({ rope, slidingWindow: window }) => {
    const key = JSON.stringify(rope);
    if (rope !== undefined && !rotations.has(key)) rotations.set(key, rotationOf(g, positions, rope));
    if (!masks.has(window)) {
      let allowed = lessOrEqual(g, keys, column);
      if (window !== undefined) allowed = and(g, allowed, less(g, sub(g, column, keys), int64(g, window)));
      const mask = where(g, allowed, g.constant(0), g.constant(MASKED_SCORE));
      masks.set(window, unsqueeze(g, mask, [0, 1, 2]));
    }
    return { mask: masks.get(window)!, rotation: rope === undefined ? undefined : rotations.get(key), ...shapes };
  };
}

/**
 * Puts a full `recent` into `old`, of keys or values of one block.
 *
 * @returns Inputs `old` `[batch, kvHeads, capacity, headDim]`, `recent` `[batch, kvHeads, recent, headDim]`, `merged` `[1]` int64; output `next`.
 */
export function buildMerge(
  { kvHeads, headDim }: Pick<ModelDescription, "kvHeads" | "headDim">,
  { capacity, recent }: SamplerSizes,
  dtype: "f32" | "f16",
): Graph {
  const type = dtype === "f16" ? "float16" : "float32";
  const g = createGraph("merge");
  const old = g.input("old", type, ["batch", kvHeads, capacity, headDim]);
  const more = g.input("recent", type, ["batch", kvHeads, recent, headDim]);
  const merged = g.input("merged", "int64", [1]);
  const before = slice(g, old, 2, int64s(g, [0]), merged);
  const after = slice(g, old, 2, add(g, merged, int64s(g, [recent])), int64s(g, [capacity]));
  g.output("next", concat(g, [before, more, after], 2));
  return g;
}
