/**
 * Attention of one new token a window as one operator of ONNX Runtime, `com.microsoft` GroupQueryAttention, which rotates, puts
 * keys and values into their place of a cache that it is given, and reads only the places that hold something.
 *
 * On CUDA it takes float16 only (flash attention), on CPUs float32.
 *
 * @module
 */
import { f32ToF16Bits } from "../checkpoint/half.ts";
import { cast, reshape } from "../graph/ops.ts";
import type { Graph, Value } from "../graph/types.ts";
import type { KeyValue } from "./decoder_attention.ts";
import type { BlockAttention } from "./decoder_block.ts";
import type { ModelDescription, RopeDescription } from "./types.ts";

/** Head sizes that the operator rotates. */
const HEAD_MULTIPLE = 16;
/** Largest head of flash attention. */
const LARGEST_HEAD = 256;

/** Whether the operator serves a model: sizes of heads and of what rotates of them. */
export function fitsFusedAttention({ headDim, blocks }: Pick<ModelDescription, "headDim" | "blocks">): boolean {
  return headDim % HEAD_MULTIPLE === 0 && headDim <= LARGEST_HEAD &&
    blocks.every(({ rope }) => rope === undefined || rope.rotaryDim % HEAD_MULTIPLE === 0);
}

/** What all blocks of a step share. */
export interface FusedStep {
  /** `[batch]` int32: place of each window's new token. */
  readonly places: Value;
  /** Places of the caches, above 1. */
  readonly capacity: number;
}

/**
 * Makes attentions for {@linkcode ./decoder_block.ts buildBlock}.
 *
 * @returns For a cache `[batch, kvHeads, capacity, headDim]`, what attends with it; its `present` is the operator's output, which
 *   should be bound to the cache's own memory: it is copied otherwise.
 */
export function fusedAttention(
  g: Graph,
  model: ModelDescription,
  { places, capacity }: FusedStep,
): (past: KeyValue) => BlockAttention {
  const { heads, kvHeads, headDim } = model;
  const tables = new Map<string, readonly [Value, Value]>();
  const total = g.constant(Int32Array.of(capacity), [1]);
  return (past) => (block, { query, key, value }, normalize) => {
    const dtype = query.dtype;
    const placed = (which: "query" | "key", x: Value, count: number) => {
      if (block.norms[which] === undefined || block.qkNormScope === "full") return x;
      const normal = normalize(which, cast(g, reshape(g, x, [0, 0, count, headDim]), "float32"));
      return reshape(g, cast(g, normal, dtype), [0, 0, count * headDim]);
    };
    const { rope, slidingWindow } = block;
    let rotation: readonly (Value | undefined)[] = [undefined, undefined];
    if (rope !== undefined) {
      const name = JSON.stringify(rope);
      if (!tables.has(name)) tables.set(name, rotationTables(g, rope, capacity, dtype));
      rotation = tables.get(name)!;
    }
    const [output, newKey, newValue] = g.node(
      "GroupQueryAttention",
      [
        placed("query", query, heads),
        placed("key", key, kvHeads),
        value,
        past.key,
        past.value,
        places,
        total,
        ...rotation,
      ],
      {
        num_heads: heads,
        kv_num_heads: kvHeads,
        scale: { float: model.attentionScale },
        do_rotary: rope === undefined ? 0 : 1,
        ...(slidingWindow === undefined ? {} : { local_window_size: slidingWindow }),
        ...(model.attentionSoftcap === undefined ? {} : { softcap: { float: model.attentionSoftcap } }),
      },
      {
        domain: "com.microsoft",
        outputs: [query, past.key, past.value].map(({ shape }) => ({ dtype, shape })),
      },
    );
    return { output, present: { key: newKey, value: newValue } };
  };
}

/** cos and sin by place, `[places, rotaryDim/2]`; longrope's other frequencies from the place on where they apply. */
function rotationTables(
  g: Graph,
  { inverseFrequencies, attentionFactor, long }: RopeDescription,
  places: number,
  dtype: Value["dtype"],
): readonly [Value, Value] {
  const half = inverseFrequencies.length;
  const table = (turn: (angle: number) => number) => {
    const values = new Float32Array(places * half);
    for (let place = 0; place < places; place++) {
      const frequencies = long !== undefined && place >= long.after ? long.inverseFrequencies : inverseFrequencies;
      // Frequencies and angles are rounded to f32, as in the exported graph.
      for (let i = 0; i < half; i++) {
        values[place * half + i] = attentionFactor * turn(Math.fround(place * Math.fround(frequencies[i])));
      }
    }
    return g.constant(dtype === "float16" ? f32ToF16Bits(values) : values, [places, half], dtype);
  };
  return [table(Math.cos), table(Math.sin)];
}
