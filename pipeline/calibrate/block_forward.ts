/**
 * The decoder block of `model/` with everything that depends on positions as constants: calibration runs whole windows.
 *
 * @module
 */
import { buildBlock } from "../model/decoder_block.ts";
import type { BlockContext } from "../model/decoder_context.ts";
import type { BlockDescription, LinearDescription, ModelDescription } from "../model/types.ts";
import type { Graph, Value } from "../graph/types.ts";
import { windowAttention } from "./window_attention.ts";

/** How a linear enters the graph: `x` `(batch, tokens, cols)` to `(batch, tokens, rows)`. */
export type LinearRule = (linear: LinearDescription, x: Value) => Value;

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
  const places = new Map(Object.entries(block.norms).map(([place, name]) => [name as string, place]));
  const weights = {
    linear: (_: Graph, description: LinearDescription, input: Value) => linear(description, input),
    vector: (_: Graph, name: string, length: number) => g.input(`norm/${places.get(name)}`, "float32", [length]),
  };
  const attend = windowAttention(g, model, rotation(g, block, x.shape[1] as number));
  return buildBlock(g, model, block, weights, { hidden: x, attend }).hidden;
}
