/**
 * Attention over whole windows that leaves out most of what the causal mask hides: queries in pieces, each with the keys up to
 * its end.
 *
 * @module
 */
import { attend, headsOf } from "../model/decoder_attention.ts";
import type { BlockAttention } from "../model/decoder_block.ts";
import type { BlockContext } from "../model/decoder_context.ts";
import type { ModelDescription } from "../model/types.ts";
import { concat, int64s, slice, split } from "../graph/ops.ts";
import type { Graph, Value } from "../graph/types.ts";

/** Added to masked scores; finite, as in the exported model. */
const MASKED_SCORE = -1e30;

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
    const pieces = starts.length === 1 ? [query] : split(g, query, 2, sizes);
    const outputs = starts.map((from, at) => {
      const to = from + sizes[at];
      const first = Math.max(0, from + 1 - (block.slidingWindow ?? Infinity));
      const seen = (all: Value) => first === 0 && to === tokens ? all : slice(g, all, 2, first, to);
      const groups = heads / kvHeads;
      const context = {
        mask: maskOf(g, { from, to, first }, block.slidingWindow),
        scoreShape: int64s(g, [batch, kvHeads, groups, sizes[at], to - first]),
        rowShape: int64s(g, [batch, kvHeads, groups * sizes[at], to - first]),
      };
      return attend(g, model, context, pieces[at], [{ key: seen(key), value: seen(value) }]);
    });
    return { output: outputs.length === 1 ? outputs[0] : concat(g, outputs, 1), present: { key, value } };
  };
}
