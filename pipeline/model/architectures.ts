/**
 * What distinguishes the supported decoder families, as data.
 *
 * @module
 */
import type { ModelConfig } from "./config.ts";

/** Which linears of attention and MLP have biases: by a flag of config.json, or always. */
export type BiasRule = "none" | "attention_bias" | "mlp_bias" | "always";

/** Where norms sit and what their weights are called. */
export type NormPlaces = Readonly<
  Partial<Record<"beforeAttention" | "afterAttention" | "beforeMlp" | "afterMlp", string>>
>;

/** A decoder family. */
export interface Architecture {
  /** `tie_word_embeddings` where config.json leaves it out (the library omits its base default, true). */
  readonly tied: boolean;
  readonly norms: NormPlaces;
  /** Norms on queries and keys. */
  readonly qkNorm?: "head" | "full";
  /** RMSNorm multiplies by 1 + weight. */
  readonly normAddsOne?: boolean;
  readonly normEpsilon: number;
  readonly qkvBias: BiasRule;
  readonly outputBias: BiasRule;
  readonly mlpBias: BiasRule;
  /** One matrix for q, k, v and one for gate, up. */
  readonly fused?: boolean;
  /** Rotary base where config.json has none; `localTheta` is that of sliding-window blocks. */
  readonly theta: number;
  readonly localTheta?: number;
  /** Dimensions of a head where config.json names none; hidden/heads otherwise. */
  readonly headDim?: number;
  /** Window of a block in tokens. */
  readonly window?: (config: ModelConfig, block: number) => number | undefined;
  /** Whether a block rotates. */
  readonly rotates?: (config: ModelConfig, block: number) => boolean;
  readonly embeddingScale?: (config: ModelConfig) => number;
  /** Factor on q·kᵀ; 1/sqrt(headDim) otherwise. */
  readonly attentionScale?: (config: ModelConfig) => number | undefined;
  readonly softcaps?: { readonly attention?: number; readonly logits?: number };
  readonly residualScale?: (config: ModelConfig) => number;
  readonly logitsDivisor?: (config: ModelConfig) => number;
  readonly activation?: string;
}

const PRE_NORMS: NormPlaces = { beforeAttention: "input_layernorm", beforeMlp: "post_attention_layernorm" };
const GEMMA_NORMS: NormPlaces = {
  beforeAttention: "input_layernorm",
  afterAttention: "post_attention_layernorm",
  beforeMlp: "pre_feedforward_layernorm",
  afterMlp: "post_feedforward_layernorm",
};

const llama: Architecture = {
  tied: false,
  norms: PRE_NORMS,
  normEpsilon: 1e-6,
  qkvBias: "attention_bias",
  outputBias: "attention_bias",
  mlpBias: "mlp_bias",
  theta: 10_000,
};

const mistral: Architecture = {
  ...llama,
  qkvBias: "none",
  outputBias: "none",
  mlpBias: "none",
  window: (config) => config.sliding_window ?? undefined,
};

const qwen2: Architecture = {
  ...mistral,
  qkvBias: "always",
  window: (config, block) =>
    !config.use_sliding_window
      ? undefined
      : byLayerType(config, block, block >= (config.max_window_layers ?? 28), config.sliding_window ?? undefined),
};

const gemma2: Architecture = {
  tied: true,
  norms: GEMMA_NORMS,
  normAddsOne: true,
  normEpsilon: 1e-6,
  qkvBias: "attention_bias",
  outputBias: "attention_bias",
  mlpBias: "none",
  theta: 10_000,
  headDim: 256,
  window: (config, block) => byLayerType(config, block, block % 2 === 0, config.sliding_window ?? 4096),
  embeddingScale: (config) => Math.sqrt(config.hidden_size),
  attentionScale: (config) => (config.query_pre_attn_scalar ?? 256) ** -0.5,
  softcaps: { attention: 50, logits: 30 },
  activation: "gelu_pytorch_tanh",
};

/** Decoder families by `model_type`. */
export const ARCHITECTURES: Readonly<Record<string, Architecture>> = {
  llama,
  mistral,
  qwen2,
  qwen3: {
    ...qwen2,
    qkNorm: "head",
    qkvBias: "attention_bias",
    outputBias: "attention_bias",
    headDim: 128,
  },
  phi3: { ...mistral, fused: true, normEpsilon: 1e-5 },
  granite: {
    ...llama,
    embeddingScale: (config) => config.embedding_multiplier ?? 1,
    attentionScale: (config) => config.attention_multiplier ?? 1,
    residualScale: (config) => config.residual_multiplier ?? 1,
    logitsDivisor: (config) => config.logits_scaling ?? 1,
  },
  olmo2: {
    ...llama,
    norms: { afterAttention: "post_attention_layernorm", afterMlp: "post_feedforward_layernorm" },
    qkNorm: "full",
    normEpsilon: 1e-5,
    mlpBias: "none",
  },
  smollm3: {
    ...llama,
    tied: true,
    theta: 2_000_000,
    // 1 marks a block that does rotate, although the list is called no_rope_layers.
    rotates: (config, block) =>
      config.no_rope_layers
        ? Boolean(config.no_rope_layers[block] ?? true)
        : (block + 1) % (config.no_rope_layer_interval ?? 4) !== 0,
    window: (config, block) =>
      config.use_sliding_window && config.sliding_window
        ? byLayerType(config, block, false, config.sliding_window)
        : undefined,
  },
  gemma2,
  gemma3_text: {
    ...gemma2,
    qkNorm: "head",
    theta: 1_000_000,
    localTheta: 10_000,
    softcaps: undefined,
    window: (config, block) =>
      byLayerType(
        config,
        block,
        (block + 1) % (config.sliding_window_pattern ?? config._sliding_window_pattern ?? 6) !== 0,
        config.sliding_window ?? 4096,
      ),
  },
};

/** The window where `layer_types` (or else `sliding`) says that the block has one. */
function byLayerType(
  config: ModelConfig,
  block: number,
  sliding: boolean,
  window: number | undefined,
): number | undefined {
  const type = config.layer_types?.[block];
  if (type === undefined) return sliding ? window : undefined;
  return type === "sliding_attention" ? window : undefined;
}
