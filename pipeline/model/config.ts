/**
 * config.json as far as decoders need it, in today's and older spellings, with every size bounded.
 *
 * @module
 */
import * as v from "valibot";

/** Limits of a believable decoder: beyond them a config.json is broken or hostile, and graphs of it would not fit anywhere. */
export const CONFIG_LIMITS = {
  /** Llama-3.1-405B has 126. */
  layers: 1024,
  /** Llama-3.1-405B: 16384. */
  hiddenSize: 1 << 17,
  /** Llama-3.1-405B: 53248. */
  intermediateSize: 1 << 20,
  /** 262,144 in Gemma 3. */
  vocabularySize: 1 << 22,
  /** 128 in Llama-3.1-405B. */
  heads: 4096,
  /** 256 in Gemma. */
  headDim: 4096,
  /** Llama 4 says 10 million. */
  positions: 1 << 28,
  /** Llama 3 has three. */
  endTokens: 1024,
} as const;

const size = (limit: number) => v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(limit));
const finite = v.pipe(v.number(), v.finite());
const positive = v.pipe(finite, v.gtValue(0), v.maxValue(1e12));
const tokenId = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(CONFIG_LIMITS.vocabularySize));
const flag = v.nullish(v.boolean());
/** One factor for each pair of rotating dimensions. */
const factors = v.nullish(v.pipe(v.array(positive), v.maxLength(CONFIG_LIMITS.headDim)));

/** Parameters of one rotary embedding; `rope_type` was called `type`. */
const ropeSchema = v.looseObject({
  rope_type: v.nullish(v.string()),
  type: v.nullish(v.string()),
  rope_theta: v.nullish(positive),
  partial_rotary_factor: v.nullish(v.pipe(positive, v.maxValue(1))),
  factor: v.nullish(positive),
  original_max_position_embeddings: v.nullish(size(CONFIG_LIMITS.positions)),
  attention_factor: v.nullish(positive),
  low_freq_factor: v.nullish(positive),
  high_freq_factor: v.nullish(positive),
  beta_fast: v.nullish(positive),
  beta_slow: v.nullish(positive),
  mscale: v.nullish(finite),
  mscale_all_dim: v.nullish(finite),
  truncate: flag,
  short_factor: factors,
  long_factor: factors,
});

/** Parameters of one rotary embedding as config.json gives them. */
export type RopeConfig = v.InferOutput<typeof ropeSchema>;

const perLayerTypeSchema = v.object({
  full_attention: v.nullish(ropeSchema),
  sliding_attention: v.nullish(ropeSchema),
});

const configSchema = v.looseObject({
  model_type: v.string(),
  hidden_size: size(CONFIG_LIMITS.hiddenSize),
  intermediate_size: size(CONFIG_LIMITS.intermediateSize),
  num_hidden_layers: size(CONFIG_LIMITS.layers),
  num_attention_heads: size(CONFIG_LIMITS.heads),
  num_key_value_heads: v.nullish(size(CONFIG_LIMITS.heads)),
  head_dim: v.nullish(size(CONFIG_LIMITS.headDim)),
  vocab_size: size(CONFIG_LIMITS.vocabularySize),
  max_position_embeddings: v.nullish(size(CONFIG_LIMITS.positions)),
  original_max_position_embeddings: v.nullish(size(CONFIG_LIMITS.positions)),
  rms_norm_eps: v.nullish(v.pipe(finite, v.minValue(0), v.maxValue(1))),
  hidden_act: v.nullish(v.string()),
  hidden_activation: v.nullish(v.string()),
  tie_word_embeddings: flag,
  attention_bias: flag,
  mlp_bias: flag,
  rope_theta: v.nullish(positive),
  rope_local_base_freq: v.nullish(positive),
  partial_rotary_factor: v.nullish(v.pipe(positive, v.maxValue(1))),
  rope_scaling: v.nullish(v.looseObject({})),
  rope_parameters: v.nullish(v.looseObject({})),
  sliding_window: v.nullish(size(CONFIG_LIMITS.positions)),
  use_sliding_window: flag,
  max_window_layers: v.nullish(v.pipe(v.number(), v.integer(), v.minValue(0))),
  sliding_window_pattern: v.nullish(size(CONFIG_LIMITS.layers)),
  _sliding_window_pattern: v.nullish(size(CONFIG_LIMITS.layers)),
  layer_types: v.nullish(
    v.pipe(v.array(v.picklist(["full_attention", "sliding_attention"])), v.maxLength(CONFIG_LIMITS.layers)),
  ),
  no_rope_layers: v.nullish(
    v.pipe(v.array(v.union([v.number(), v.boolean()])), v.maxLength(CONFIG_LIMITS.layers)),
  ),
  no_rope_layer_interval: v.nullish(size(CONFIG_LIMITS.layers)),
  query_pre_attn_scalar: v.nullish(positive),
  attn_logit_softcapping: v.nullish(positive),
  final_logit_softcapping: v.nullish(positive),
  use_bidirectional_attention: flag,
  attention_multiplier: v.nullish(positive),
  embedding_multiplier: v.nullish(positive),
  residual_multiplier: v.nullish(positive),
  logits_scaling: v.nullish(positive),
});

/** A checked config.json. */
export type ModelConfig = v.InferOutput<typeof configSchema>;

const tokensSchema = v.looseObject({
  bos_token_id: v.nullish(v.union([tokenId, v.array(tokenId)])),
  eos_token_id: v.nullish(v.union([tokenId, v.pipe(v.array(tokenId), v.maxLength(CONFIG_LIMITS.endTokens))])),
  pad_token_id: v.nullish(v.pipe(v.number(), v.integer(), v.minValue(-1))),
});

/**
 * Checks config.json.
 *
 * @throws {RangeError} that names the field, the rule and the value.
 */
export function parseModelConfig(config: Readonly<Record<string, unknown>>): ModelConfig {
  return parse(configSchema, config, "config.json");
}

/**
 * Rotary parameters of full-attention and sliding-window blocks, whichever spelling config.json has:
 * `rope_parameters` (one set, or one for each layer type), or `rope_theta`, `rope_scaling`, `rope_local_base_freq`.
 *
 * @throws {RangeError} that names the field, the rule and the value.
 */
export function ropeParameters(
  config: ModelConfig,
  defaults: { readonly theta: number; readonly localTheta?: number },
): { readonly full: RopeConfig; readonly sliding: RopeConfig } {
  const theta = config.rope_theta ?? defaults.theta;
  const partial = config.partial_rotary_factor;
  const complete = (rope: RopeConfig, base: number): RopeConfig => ({
    ...rope,
    rope_theta: rope.rope_theta ?? base,
    partial_rotary_factor: rope.partial_rotary_factor ?? partial,
    original_max_position_embeddings: rope.original_max_position_embeddings ??
      config.original_max_position_embeddings,
  });
  const localTheta = config.rope_local_base_freq ?? defaults.localTheta;
  const stored = config.rope_parameters;
  if (stored && ("full_attention" in stored || "sliding_attention" in stored)) {
    const sets = parse(perLayerTypeSchema, stored, "rope_parameters of config.json");
    const full = complete(sets.full_attention ?? {}, theta);
    return { full, sliding: sets.sliding_attention ? complete(sets.sliding_attention, localTheta ?? theta) : full };
  }
  const name = stored ? "rope_parameters" : "rope_scaling";
  const full = complete(parse(ropeSchema, stored ?? config.rope_scaling ?? {}, `${name} of config.json`), theta);
  // Gemma 3's older spelling scales the full-attention blocks only.
  return { full, sliding: localTheta === undefined ? full : complete({}, localTheta) };
}

/**
 * Special tokens; generation_config.json goes before config.json, since it is what generation uses.
 *
 * @throws {RangeError} that names the field, the rule and the value.
 */
export function specialTokens(
  config: Readonly<Record<string, unknown>>,
  generationConfig: Readonly<Record<string, unknown>> = {},
): { readonly bos?: number; readonly eos: readonly number[]; readonly pad?: number } {
  const own = parse(tokensSchema, config, "config.json");
  const generation = parse(tokensSchema, generationConfig, "generation_config.json");
  const bos = [generation.bos_token_id ?? own.bos_token_id ?? []].flat()[0];
  const eos = [...new Set([generation.eos_token_id ?? own.eos_token_id ?? []].flat())];
  const pad = generation.pad_token_id ?? own.pad_token_id;
  return {
    ...(bos === undefined ? {} : { bos }),
    eos,
    ...(pad === undefined || pad === null || pad < 0 ? {} : { pad }),
  };
}

// deno-lint-ignore no-explicit-any -- valibot's own constraint for "any schema"
function parse<S extends v.GenericSchema<any, any>>(schema: S, value: unknown, where: string): v.InferOutput<S> {
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  const field = v.getDotPath(issue) ?? "it";
  const found = JSON.stringify(issue.input);
  throw new RangeError(
    `Cannot use "${field}" of ${where}: ${issue.message}: current value is ${
      found === undefined ? "missing" : found.slice(0, 80)
    }`,
  );
}
