/**
 * The decoder block of `model/` with everything that depends on positions as constants: calibration runs whole windows.
 *
 * @module
 */
import { buildBlock } from "../model/decoder_block.ts";
import type { BlockContext } from "../model/decoder_context.ts";
import type { BlockDescription, LinearDescription, ModelDescription } from "../model/types.ts";
import { int64s } from "../graph/ops.ts";
import type { Graph, Value } from "../graph/types.ts";

/** Added to masked scores; finite, as in the exported model. */
const MASKED_SCORE = -1e30;

/** How a linear enters the graph: `x` `(batch, tokens, cols)` to `(batch, tokens, rows)`. */
export type LinearRule = (linear: LinearDescription, x: Value) => Value;

/** Rotations and mask of positions `0 … tokens−1`. */
function windowContext(g: Graph, model: ModelDescription, block: BlockDescription, x: Value): BlockContext {
  const [batch, tokens] = x.shape as readonly number[];
  const mask = new Float32Array(tokens * tokens);
  for (let query = 0; query < tokens; query++) {
    for (let key = 0; key < tokens; key++) {
      const outside = block.slidingWindow !== undefined && query - key >= block.slidingWindow;
      if (key > query || outside) mask[query * tokens + key] = MASKED_SCORE;
    }
  }
  const groups = model.heads / model.kvHeads;
  return {
    mask: g.constant(mask, [1, 1, tokens, tokens]),
    rotation: rotation(g, block, tokens),
    scoreShape: int64s(g, [batch, model.kvHeads, groups, tokens, tokens]),
    rowShape: int64s(g, [batch, model.kvHeads, groups * tokens, tokens]),
  };
}

function rotation(g: Graph, { rope }: BlockDescription, tokens: number): BlockContext["rotation"] {
  if (rope === undefined) return undefined;
  const frequencies = rope.long !== undefined && tokens > rope.long.after
    ? rope.long.inverseFrequencies
    : rope.inverseFrequencies;
  const half = frequencies.length;
  const table = (of: (angle: number) => number) =>
    g.constant(
      Float32Array.from({ length: tokens * half }, (_, at) => {
        // angles in f32, as the exported model computes them
        const angle = Math.fround(Math.floor(at / half) * Math.fround(frequencies[at % half]));
        return of(angle) * rope.attentionFactor;
      }),
      [1, 1, tokens, half],
    );
  return { cos: table(Math.cos), sin: table(Math.sin) };
}

/**
 * Adds one block over whole windows to a graph. Norm weights are inputs `norm/PLACE`, the checkpoint's own values.
 *
 * @param x `(batch, tokens, hidden)` f32, of known shape.
 * @returns `(batch, tokens, hidden)` f32.
 */
export function blockForward(
  g: Graph,
  model: ModelDescription,
  block: BlockDescription,
  x: Value,
  linear: LinearRule,
): Value {
  const context = windowContext(g, model, block, x);
  const places = new Map(Object.entries(block.norms).map(([place, name]) => [name as string, place]));
  const weights = {
    linear: (_: Graph, description: LinearDescription, input: Value) => linear(description, input),
    vector: (_: Graph, name: string, length: number) => g.input(`norm/${places.get(name)}`, "float32", [length]),
  };
  return buildBlock(g, model, block, weights, { hidden: x, context }).hidden;
}
