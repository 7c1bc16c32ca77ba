/**
 * A decoder that writes one token more of many windows and needs nothing from JavaScript meanwhile: prompts and random numbers of all
 * places are given once, and what a run gives is what the next one takes.
 *
 * @module
 */
import { drawToken } from "../evaluate/choose_graph.ts";
import { createGraph } from "../graph/graph.ts";
import {
  add,
  gather,
  greaterOrEqual,
  int64,
  reduceMax,
  slice,
  squeeze,
  transpose,
  unsqueeze,
  where,
} from "../graph/ops.ts";
import type { Graph } from "../graph/types.ts";
import { buildBlock } from "./decoder_block.ts";
import { buildEmbedding, buildHead, type DecoderWeights } from "./decoder_graph.ts";
import { fusedAttention } from "./fused_attention.ts";
import type { ModelDescription } from "./types.ts";

/** A graph and what of it belongs together. */
export interface FusedSampler {
  readonly graph: Graph;
  /** Caches, all of one shape and type: an input and the output to bind to the same tensor. */
  readonly caches: readonly { readonly past: string; readonly present: string }[];
}

/**
 * Builds the graph of one run.
 *
 * @param length Tokens a window; the caches have a place for each.
 * @param temperature Above 0: logits are divided by it.
 * @returns Inputs `given` `[length, batch]` int64, token ids of the prompts and −1 behind them; `uniform` `[length, batch]` f32 in [0, 1);
 *   `places` `[batch]` int32, the place of the token that is fed, equal in all windows; `token` `[batch]` int64, fed where none is given;
 *   caches `[batch, kvHeads, length, headDim]`. Outputs `next_places`; `next_token`, drawn with the uniform number of the place that is fed
 *   from the distribution after it; `largest` `[batch]` f32, its largest logit.
 */
export function buildFusedSampler(
  model: ModelDescription,
  weights: DecoderWeights,
  { length, dtype, temperature }: {
    readonly length: number;
    readonly dtype: "f32" | "f16";
    readonly temperature: number;
  },
): FusedSampler {
  const type = dtype === "f16" ? "float16" : "float32";
  const g = createGraph(`${model.architecture}_fused_sampler`);
  const given = g.input("given", "int64", [length, "batch"]);
  const uniforms = g.input("uniform", "float32", [length, "batch"]);
  const places = g.input("places", "int32", ["batch"]);
  const token = g.input("token", "int64", ["batch"]);
  const place = slice(g, places, 0, 0, 1);
  const prompt = gather(g, given, place);
  const ids = transpose(g, where(g, greaterOrEqual(g, prompt, int64(g, 0)), prompt, unsqueeze(g, token, [0])), [1, 0]);
  const attend = fusedAttention(g, model, { places, capacity: length });
  const shape = ["batch", model.kvHeads, length, model.headDim];
  const caches: { past: string; present: string }[] = [];
  let hidden = buildEmbedding(g, model, weights, ids);
  for (const block of model.blocks) {
    const past = {
      key: g.input(`past.${block.index}.key`, type, shape),
      value: g.input(`past.${block.index}.value`, type, shape),
    };
    const outputs = buildBlock(g, model, block, weights, { hidden, attend: attend(past) }, type);
    hidden = outputs.hidden;
    for (const each of ["key", "value"] as const) {
      // Under its own name: an output of another would be a copy.
      caches.push({ past: past[each].name, present: outputs.present[each].name });
      g.output(outputs.present[each].name, outputs.present[each]);
    }
  }
  const row = squeeze(g, buildHead(g, model, weights, hidden, dtype), [1]);
  const largest = reduceMax(g, row, [1]);
  const uniform = transpose(g, gather(g, uniforms, place), [1, 0]);
  g.output("next_token", drawToken(g, row, largest, uniform, g.constant(temperature)));
  g.output("largest", squeeze(g, largest, [1]));
  g.output("next_places", add(g, places, g.constant(Int32Array.of(1), [1])));
  return { graph: g, caches };
}
