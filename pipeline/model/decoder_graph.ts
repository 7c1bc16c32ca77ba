/**
 * The whole decoder as a graph, with the inputs and outputs that onnxruntime-genai and transformers.js expect.
 *
 * @module
 */
import { softcap } from "../graph/compose.ts";
import { createGraph } from "../graph/graph.ts";
import { cast, mul } from "../graph/ops.ts";
import type { Dim, Graph, Value } from "../graph/types.ts";
import { growingCache } from "./decoder_attention.ts";
import { type BlockWeights, buildBlock, modelNorm } from "./decoder_block.ts";
import { decoderContext } from "./decoder_context.ts";
import type { ModelDescription } from "./types.ts";

/** What fills a decoder. */
export interface DecoderWeights extends BlockWeights {
  /**
   * Rows of the embedding.
   *
   * @param ids int64 `[batch, sequence]`.
   * @returns `[batch, sequence, hidden]` f32 or f16.
   */
  embed(g: Graph, ids: Value): Value;
  /**
   * Logits before scaling and capping.
   *
   * @param x `[batch, sequence, hidden]` of the products' type.
   * @returns `[batch, sequence, vocabulary]`.
   */
  head(g: Graph, x: Value): Value;
}

/** How a decoder is built. */
export interface DecoderOptions {
  /** Type of products and of the cache. Default f32. */
  readonly dtype?: "f32" | "f16";
  /** Inputs `past_key_values.N.key/value` and outputs `present.N.key/value`. Default true. */
  readonly cache?: boolean;
}

/** Token embedding, scaled, as the f32 residual stream. */
export function buildEmbedding(g: Graph, model: ModelDescription, weights: DecoderWeights, ids: Value): Value {
  return g.scope("embedding", () => {
    const rows = cast(g, weights.embed(g, ids), "float32");
    return model.embeddingScale === 1 ? rows : mul(g, rows, model.embeddingScale);
  });
}

/**
 * Final norm and head.
 *
 * @param hidden `[batch, sequence, hidden]` f32.
 * @returns Logits `[batch, sequence, vocabulary]` f32.
 */
export function buildHead(
  g: Graph,
  model: ModelDescription,
  weights: DecoderWeights,
  hidden: Value,
  dtype: "f32" | "f16" = "f32",
): Value {
  return g.scope("head", () => {
    const normal = modelNorm(g, model, weights, model.finalNorm, hidden);
    let logits = cast(g, weights.head(g, cast(g, normal, dtype === "f16" ? "float16" : "float32")), "float32");
    if (model.logitsDivisor !== 1) logits = mul(g, logits, 1 / model.logitsDivisor);
    return model.logitSoftcap === undefined ? logits : softcap(g, logits, model.logitSoftcap);
  });
}

/**
 * Builds a decoder: inputs `input_ids`, `attention_mask`, `position_ids` (int64) and
 * `past_key_values.N.key/value` `[batch, kvHeads, past, headDim]`; outputs `logits` (f32) and `present.N.key/value`.
 */
export function buildDecoder(model: ModelDescription, weights: DecoderWeights, options: DecoderOptions = {}): Graph {
  const { dtype = "f32", cache = true } = options;
  const type = dtype === "f16" ? "float16" : "float32";
  const total: Dim = cache ? "total_sequence_length" : "sequence_length";
  const g = createGraph(`${model.architecture}_decoder`);
  const ids = g.input("input_ids", "int64", ["batch_size", "sequence_length"]);
  const attentionMask = g.input("attention_mask", "int64", ["batch_size", total]);
  const positionIds = g.input("position_ids", "int64", ["batch_size", "sequence_length"]);
  const context = decoderContext(g, model, { positionIds, attentionMask });
  const pastShape = ["batch_size", model.kvHeads, "past_sequence_length", model.headDim];
  const caches = model.blocks.map((_, index) =>
    cache
      ? growingCache({
        key: g.input(`past_key_values.${index}.key`, type, pastShape),
        value: g.input(`past_key_values.${index}.value`, type, pastShape),
      })
      : undefined
  );
  let hidden = buildEmbedding(g, model, weights, ids);
  const present = model.blocks.map((block, index) => {
    const inputs = { hidden, context: context.block(block), cache: caches[index] };
    const outputs = buildBlock(g, model, block, weights, inputs, type);
    hidden = outputs.hidden;
    return outputs.present;
  });
  g.output("logits", buildHead(g, model, weights, hidden, dtype));
  if (cache) {
    present.forEach(({ key, value }, index) => {
      g.output(`present.${index}.key`, key);
      g.output(`present.${index}.value`, value);
    });
  }
  return g;
}
