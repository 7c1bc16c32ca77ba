/**
 * Attention over whole windows that leaves out most of what the causal mask hides: queries in pieces, each with the pieces of keys
 * up to its own.
 *
 * @module
 */
import { attend, headsOf } from "../model/decoder_attention.ts";
import type { BlockAttention } from "../model/decoder_block.ts";
import { type BlockContext, MASKED_SCORE } from "../model/decoder_context.ts";
import type { ModelDescription } from "../model/types.ts";
import { concat, int64s, split } from "../graph/ops.ts";
import type { Graph, Value } from "../graph/types.ts";

/**
 * Queries in a piece. Of windows of 1024 tokens 5/8 of the scores remain, of 2048 9/16; smaller pieces would save little more and
 * make products small.
 */
const PIECE = 256;

/** 0 where query `from + row` sees key `first + column`, {@linkcode MASKED_SCORE} elsewhere: `(1, 1, 1, queries, keys)`. */
function maskOf(
  g: Graph,
  { from, to, first }: { readonly from: number; readonly to: number; readonly first: number },
  slidingWindow: number | undefined,
): Value {
  const keys = to - first;
  const mask = new Float32Array((to - from) * keys);
  for (let query = from; query < to; query++) {
    for (let key = first; key < to; key++) {
      const outside = slidingWindow !== undefined && query - key >= slidingWindow;
      if (key > query || outside) mask[(query - from) * keys + key - first] = MASKED_SCORE;
    }
  }
  return g.constant(mask, [1, 1, 1, to - from, keys]);
}

/**
 * Attention of the tokens `0 … tokens−1` of every window, of known shape.
 *
 * @param rotation Of these positions; absent when the block does not rotate.
 */
export function windowAttention(g: Graph, model: ModelDescription, rotation: BlockContext["rotation"]): BlockAttention {
  const { heads, kvHeads } = model;
  return (block, projections, normalize) => {
    const { query, key, value } = headsOf(g, model, block, rotation, projections, normalize);
    const [batch, , tokens] = query.shape as readonly number[];
    const starts = Array.from({ length: Math.ceil(tokens / PIECE) }, (_, at) => at * PIECE);
    const sizes = starts.map((from) => Math.min(PIECE, tokens - from));
    const cut = (all: Value) => starts.length === 1 ? [all] : split(g, all, 2, sizes);
    const [queries, keys, values] = [query, key, value].map(cut);
    const joined = (pieces: readonly Value[]) => pieces.length === 1 ? pieces[0] : concat(g, pieces, 2);
    const outputs = starts.map((from, at) => {
      const to = from + sizes[at];
      const oldest = Math.floor(Math.max(0, from + 1 - (block.slidingWindow ?? Infinity)) / PIECE);
      const first = oldest * PIECE;
      const context = {
        mask: maskOf(g, { from, to, first }, block.slidingWindow),
        scoreShape: int64s(g, [batch, kvHeads, heads / kvHeads, sizes[at], to - first]),
        rowShape: int64s(g, [batch, kvHeads, heads / kvHeads * sizes[at], to - first]),
      };
      const seen = { key: joined(keys.slice(oldest, at + 1)), value: joined(values.slice(oldest, at + 1)) };
      return attend(g, model, context, queries[at], [seen]);
    });
    return { output: outputs.length === 1 ? outputs[0] : concat(g, outputs, 1), present: { key, value } };
  };
}
