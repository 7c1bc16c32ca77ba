/**
 * What all blocks of a decoder share in one run: rotations of the positions and masks, computed once each.
 *
 * @module
 */
import type { Graph, Value } from "../graph/types.ts";
import {
  add,
  and,
  cast,
  concat,
  cos,
  greater,
  int64,
  int64s,
  less,
  lessOrEqual,
  mul,
  range,
  reduceMax,
  shape,
  sin,
  squeeze,
  sub,
  unsqueeze,
  where,
} from "../graph/ops.ts";
import type { BlockDescription, ModelDescription, RopeDescription } from "./types.ts";

/** Added to masked scores: far below any score, yet finite, so that rows with nothing to attend to give no NaN. */
export const MASKED_SCORE = -1e30;

/** What attention in one block needs beside its input. */
export interface BlockContext {
  /** `[batch, 1, sequence, rotaryDim/2]` f32; absent when the block does not rotate. */
  readonly rotation?: { readonly cos: Value; readonly sin: Value };
  /** Added to scores: `[batch or 1, 1, 1, sequence, total]` f32, 0 or a large negative number. */
  readonly mask: Value;
  /** int64 `[5]`: batch, kvHeads, heads/kvHeads, sequence, total. */
  readonly scoreShape: Value;
  /** int64 `[4]`: batch, kvHeads, −1 (heads/kvHeads · sequence), total. */
  readonly rowShape: Value;
}

/** Contexts by block; equal masks and rotations are one value. */
export interface DecoderContext {
  block(block: BlockDescription): BlockContext;
}

/** Where the tokens of a run stand. */
export interface ContextInputs {
  /** int64 `[batch, sequence]`. */
  readonly positionIds: Value;
  /** int64 `[batch, total]`, 0 on padding; without it nothing is padded and nothing is cached (total = sequence). */
  readonly attentionMask?: Value;
}

/**
 * Rotations of positions.
 *
 * @param positions int64 `[batch, sequence]`.
 * @returns `[batch, 1, sequence, rotaryDim/2]` f32 each.
 */
export function rotationOf(g: Graph, positions: Value, rope: RopeDescription): { cos: Value; sin: Value } {
  const table = (frequencies: readonly number[]) =>
    g.constant(Float32Array.from(frequencies), [1, 1, frequencies.length], "float32");
  let frequencies = table(rope.inverseFrequencies);
  if (rope.long !== undefined) {
    // A sequence reaches beyond `after` tokens when its last position is `after` or more.
    const last = reduceMax(g, positions, [0, 1], false);
    const isLong = greater(g, last, int64(g, rope.long.after - 1));
    frequencies = where(g, isLong, table(rope.long.inverseFrequencies), frequencies);
  }
  // angle[b, s, i] = position[b, s] · frequency[i]
  const angles = unsqueeze(g, mul(g, unsqueeze(g, cast(g, positions, "float32"), [2]), frequencies), [1]);
  const scaled = (x: Value) => (rope.attentionFactor === 1 ? x : mul(g, x, rope.attentionFactor));
  return { cos: scaled(cos(g, angles)), sin: scaled(sin(g, angles)) };
}

/**
 * Adds masks and rotations to a graph as blocks ask for them. Causality and windows count tokens, not positions, so
 * sequences padded on the left see what they would see alone.
 *
 * @param model Heads and sizes.
 */
export function decoderContext(g: Graph, model: ModelDescription, inputs: ContextInputs): DecoderContext {
  const { positionIds, attentionMask } = inputs;
  const rotations = new Map<string, { cos: Value; sin: Value }>();
  const masks = new Map<string, Value>();
  let shapes: { scoreShape: Value; rowShape: Value } | undefined;

  const maskOf = (window: number | undefined): Value => {
    const sequence = squeeze(g, shape(g, positionIds, 1, 2), [0]);
    const total = attentionMask === undefined ? sequence : squeeze(g, shape(g, attentionMask, 1, 2), [0]);
    const keys = range(g, int64(g, 0), total, int64(g, 1));
    // Query i of this run is token past + i, past = total − sequence.
    const queries = attentionMask === undefined
      ? keys
      : add(g, range(g, int64(g, 0), sequence, int64(g, 1)), sub(g, total, sequence));
    const column = unsqueeze(g, queries, [1]);
    let allowed = lessOrEqual(g, keys, column);
    if (window !== undefined) allowed = and(g, allowed, less(g, sub(g, column, keys), int64(g, window)));
    allowed = unsqueeze(g, allowed, [0, 1, 2]);
    if (attentionMask !== undefined) {
      allowed = and(g, allowed, unsqueeze(g, greater(g, attentionMask, int64(g, 0)), [1, 2, 3]));
    }
    return where(g, allowed, g.constant(0), g.constant(MASKED_SCORE));
  };

  const shapesOf = () => {
    const batch = shape(g, positionIds, 0, 1), sequence = shape(g, positionIds, 1, 2);
    const total = shape(g, attentionMask ?? positionIds, 1, 2);
    return {
      scoreShape: concat(g, [batch, int64s(g, [model.kvHeads, model.heads / model.kvHeads]), sequence, total], 0),
      rowShape: concat(g, [batch, int64s(g, [model.kvHeads, -1]), total], 0),
    };
  };

  return {
    block(block) {
      return g.scope("context", () => {
        const key = block.rope === undefined ? "" : JSON.stringify(block.rope);
        if (block.rope !== undefined && !rotations.has(key)) rotations.set(key, rotationOf(g, positionIds, block.rope));
        const window = String(block.slidingWindow);
        if (!masks.has(window)) masks.set(window, maskOf(block.slidingWindow));
        const mask = masks.get(window)!;
        shapes ??= shapesOf();
        return { mask, rotation: rotations.get(key), ...shapes };
      });
    },
  };
}
