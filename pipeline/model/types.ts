/**
 * Decoder architectures as data. One description serves inventory, export, calibration and differentiation.
 *
 * @module
 */

/** One linear of a block: y = x·Wᵀ + bias. */
export interface LinearDescription {
  /** Place in the block, e.g. `"self_attn.q_proj"`. */
  readonly role: string;
  /** Weight name in the checkpoint; shape `(rows, cols)`. */
  readonly weight: string;
  /** Bias name, `(rows,)`, where the model has one. */
  readonly bias?: string;
  readonly rows: number;
  readonly cols: number;
}

/** Rotary embedding of a block. */
export interface RopeDescription {
  /** Inverse frequencies, `(rotaryDim/2,)`, with every scaling already applied. */
  readonly inverseFrequencies: readonly number[];
  /** Factor on cos and sin (yarn, longrope); 1 otherwise. */
  readonly attentionFactor: number;
  /** Leading dimensions of each head that rotate. */
  readonly rotaryDim: number;
  /**
   * What replaces `inverseFrequencies` in sequences of more than `after` tokens (longrope). A graph that leaves it out
   * serves up to `after` tokens.
   */
  readonly long?: { readonly after: number; readonly inverseFrequencies: readonly number[] };
}

/** One decoder block. Norms are RMSNorm with f32 statistics. */
export interface BlockDescription {
  readonly index: number;
  /** By role: q_proj, k_proj, v_proj, o_proj (or qkv_proj), gate_proj, up_proj (or gate_up_proj), down_proj. */
  readonly linears: readonly LinearDescription[];
  /** Norm weights by place; absent places have none. */
  readonly norms: {
    readonly beforeAttention?: string;
    readonly afterAttention?: string;
    readonly beforeMlp?: string;
    readonly afterMlp?: string;
    readonly query?: string;
    readonly key?: string;
  };
  /** `"head"`: q/k norms act on each head (Qwen3, Gemma 3); `"full"`: on the whole projection (OLMo 2). */
  readonly qkNormScope?: "head" | "full";
  /** Absent: this block has no positional rotation (SmolLM3). */
  readonly rope?: RopeDescription;
  /** Attends to this many last tokens only. */
  readonly slidingWindow?: number;
}

/** A whole decoder. */
export interface ModelDescription {
  /** `model_type` of config.json. */
  readonly architecture: string;
  readonly hiddenSize: number;
  readonly vocabularySize: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediateSize: number;
  readonly maxPositions: number;
  readonly normEpsilon: number;
  /** RMSNorm multiplies by (1 + weight) (Gemma). */
  readonly normAddsOne: boolean;
  readonly activation: "silu" | "gelu_tanh" | "gelu";
  /** Factor on q·kᵀ. */
  readonly attentionScale: number;
  readonly attentionSoftcap?: number;
  readonly logitSoftcap?: number;
  /** Factor on token embeddings (Gemma: sqrt(hidden), Granite). */
  readonly embeddingScale: number;
  /** Factor on what each sublayer adds to the residual (Granite). */
  readonly residualScale: number;
  /** Logits are divided by this (Granite). */
  readonly logitsDivisor: number;
  readonly embedding: string;
  readonly finalNorm: string;
  /** Head weight `(vocabulary, hidden)`; equal to `embedding` when tied. */
  readonly head: string;
  readonly tiedHead: boolean;
  readonly blocks: readonly BlockDescription[];
  /** From config.json and generation_config.json. */
  readonly tokens: { readonly bos?: number; readonly eos: readonly number[]; readonly pad?: number };
}
