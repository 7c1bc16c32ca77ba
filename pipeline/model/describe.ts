/**
 * From config.json to the description of a decoder.
 *
 * @module
 */
import { type Architecture, ARCHITECTURES, type BiasRule } from "./architectures.ts";
import { type ModelConfig, parseModelConfig, ropeParameters, specialTokens } from "./config.ts";
import { describeRope } from "./rope.ts";
import type { BlockDescription, LinearDescription, ModelDescription } from "./types.ts";

/** Names that exist, e.g. the `tensors` of a checkpoint or the `entries` of an artefact. */
export interface TensorNames {
  has(name: string): boolean;
}

/** Prefixes of tensor names in the order in which they are looked for; multimodal checkpoints nest the decoder. */
const PREFIXES = ["model.", "", "model.language_model.", "language_model.model."];

/** Fields that mark mixtures of experts, and the count from which they do. */
const EXPERT_FIELDS = ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"];

/** What config.json's `quantization_config.quant_method` may be; others store integers. */
const READABLE_QUANTIZATION = new Set(["fp8"]);

/**
 * Describes a decoder.
 *
 * @param config Parsed config.json, in today's or older spelling.
 * @param tensors Names that exist, to find the prefix of names and whether the head is separate; the usual names are
 * assumed without.
 * @param generationConfig Parsed generation_config.json, whose special tokens go first.
 * @throws {TypeError} for mixtures of experts, integer-quantized checkpoints and unknown architectures; the message lists
 * the supported ones.
 * @throws {RangeError} when a field is missing, of the wrong type, or beyond a limit; the message names it.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { describeModel } from "./describe.ts";
 *
 * const model = describeModel({
 *   model_type: "llama", hidden_size: 64, intermediate_size: 160, num_hidden_layers: 2, num_attention_heads: 4,
 *   vocab_size: 320, eos_token_id: 2,
 * });
 * assertEquals(model.blocks[1].linears[0].weight, "model.layers.1.self_attn.q_proj.weight");
 * assertEquals(model.headDim, 16);
 * ```
 */
export function describeModel(
  config: Readonly<Record<string, unknown>>,
  tensors?: TensorNames,
  generationConfig?: Readonly<Record<string, unknown>>,
): ModelDescription {
  const architecture = chooseArchitecture(config);
  const parsed = parseModelConfig(config);
  const { heads, kvHeads, headDim } = headShape(parsed, architecture);
  const maxPositions = parsed.max_position_embeddings ?? 2048;
  const prefix = PREFIXES.find((candidate) => tensors?.has(`${candidate}embed_tokens.weight`)) ?? "model.";
  const embedding = `${prefix}embed_tokens.weight`;
  const headName = ["lm_head.weight", "language_model.lm_head.weight"].find((name) => tensors?.has(name)) ??
    "lm_head.weight";
  const tiedHead = (parsed.tie_word_embeddings ?? architecture.tied) ||
    (tensors !== undefined && !tensors.has(headName));
  const softcap = (value: number | null | undefined, otherwise: number | undefined) =>
    value === undefined ? otherwise : value ?? undefined;
  return {
    architecture: parsed.model_type,
    hiddenSize: parsed.hidden_size,
    vocabularySize: parsed.vocab_size,
    heads,
    kvHeads,
    headDim,
    intermediateSize: parsed.intermediate_size,
    maxPositions,
    normEpsilon: parsed.rms_norm_eps ?? architecture.normEpsilon,
    normAddsOne: architecture.normAddsOne ?? false,
    activation: activation(parsed, architecture),
    attentionScale: architecture.attentionScale?.(parsed) ?? headDim ** -0.5,
    attentionSoftcap: softcap(parsed.attn_logit_softcapping, architecture.softcaps?.attention),
    logitSoftcap: softcap(parsed.final_logit_softcapping, architecture.softcaps?.logits),
    embeddingScale: architecture.embeddingScale?.(parsed) ?? 1,
    residualScale: architecture.residualScale?.(parsed) ?? 1,
    logitsDivisor: architecture.logitsDivisor?.(parsed) ?? 1,
    embedding,
    finalNorm: `${prefix}norm.weight`,
    head: tiedHead ? embedding : headName,
    tiedHead,
    blocks: describeBlocks(parsed, architecture, prefix, maxPositions, { heads, kvHeads, headDim }),
    tokens: specialTokens(config, generationConfig),
  };
}

/**
 * The same decoder with some of its blocks, for debugging and for measuring memory on parts of large models. The blocks
 * keep their names and indices.
 *
 * @param range First and last block, both included.
 * @throws {RangeError} when the range is not within the model.
 */
export function truncateBlocks(model: ModelDescription, range: readonly [number, number]): ModelDescription {
  const [first, last] = range;
  if (!Number.isInteger(first) || !Number.isInteger(last) || first < 0 || last < first || last >= model.blocks.length) {
    throw new RangeError(
      `Cannot keep blocks of a model that has 0-${model.blocks.length - 1}: current value is ${first}-${last}`,
    );
  }
  return { ...model, blocks: model.blocks.slice(first, last + 1) };
}

function chooseArchitecture(config: Readonly<Record<string, unknown>>): Architecture {
  const supported = Object.keys(ARCHITECTURES).join(", ");
  for (const field of EXPERT_FIELDS) {
    const experts = config[field];
    if (typeof experts === "number" && experts > 1) {
      throw new TypeError(
        `Cannot compress a mixture of experts ("${field}" of config.json): current value is ${experts}. ` +
          `Only dense decoders are supported: ${supported}.`,
      );
    }
  }
  const type = config.model_type;
  if (typeof type !== "string" || !Object.hasOwn(ARCHITECTURES, type)) {
    const found = type === undefined ? "missing" : JSON.stringify(type).slice(0, 80);
    throw new TypeError(
      `Cannot describe this architecture ("model_type" of config.json must be one of ${supported}): ` +
        `current value is ${found}`,
    );
  }
  const quantization = config.quantization_config;
  if (typeof quantization === "object" && quantization !== null) {
    const method = "quant_method" in quantization ? quantization.quant_method : undefined;
    if (typeof method !== "string" || !READABLE_QUANTIZATION.has(method)) {
      throw new TypeError(
        `Cannot read a checkpoint quantized with ("quantization_config.quant_method" of config.json) ` +
          `anything but fp8: current value is ${JSON.stringify(method ?? null).slice(0, 80)}. Give the original model.`,
      );
    }
  }
  if (config.use_bidirectional_attention) {
    throw new TypeError(
      `Cannot describe an encoder ("use_bidirectional_attention" of config.json): current value is true`,
    );
  }
  return ARCHITECTURES[type];
}

interface HeadShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

function headShape(config: ModelConfig, architecture: Architecture): HeadShape {
  const heads = config.num_attention_heads;
  const kvHeads = config.num_key_value_heads ?? heads;
  const headDim = config.head_dim ?? architecture.headDim ?? config.hidden_size / heads;
  if (!Number.isInteger(headDim)) {
    throw new RangeError(
      `Cannot split "hidden_size" ${config.hidden_size} of config.json into "num_attention_heads" parts: ` +
        `current value is ${heads}`,
    );
  }
  if (heads % kvHeads !== 0) {
    throw new RangeError(
      `Cannot share keys among ${heads} heads ("num_key_value_heads" of config.json must divide that): ` +
        `current value is ${kvHeads}`,
    );
  }
  return { heads, kvHeads, headDim };
}

function activation(config: ModelConfig, architecture: Architecture): ModelDescription["activation"] {
  const name = config.hidden_activation ?? (architecture.activation ? undefined : config.hidden_act) ??
    architecture.activation ?? "silu";
  switch (name) {
    case "silu":
    case "swish":
      return "silu";
    case "gelu_pytorch_tanh":
    case "gelu_new":
    case "gelu_fast":
      return "gelu_tanh";
    case "gelu":
      return "gelu";
    default:
      throw new RangeError(
        `Cannot use "hidden_act" of config.json, which must be silu, gelu or gelu_pytorch_tanh: ` +
          `current value is ${JSON.stringify(name).slice(0, 80)}`,
      );
  }
}

function describeBlocks(
  config: ModelConfig,
  architecture: Architecture,
  prefix: string,
  maxPositions: number,
  shape: HeadShape,
): BlockDescription[] {
  const parameters = ropeParameters(config, { theta: architecture.theta, localTheta: architecture.localTheta });
  const full = describeRope(parameters.full, shape.headDim, maxPositions);
  const sliding = parameters.sliding === parameters.full
    ? full
    : describeRope(parameters.sliding, shape.headDim, maxPositions);
  return Array.from({ length: config.num_hidden_layers }, (_, index) => {
    const base = `${prefix}layers.${index}.`;
    const window = architecture.window?.(config, index);
    const rotates = architecture.rotates?.(config, index) ?? true;
    const norms: Record<string, string> = {};
    for (const [place, name] of Object.entries(architecture.norms)) norms[place] = `${base}${name}.weight`;
    if (architecture.qkNorm !== undefined) {
      norms.query = `${base}self_attn.q_norm.weight`;
      norms.key = `${base}self_attn.k_norm.weight`;
    }
    return {
      index,
      linears: describeLinears(config, architecture, base, shape),
      norms,
      ...(architecture.qkNorm === undefined ? {} : { qkNormScope: architecture.qkNorm }),
      ...(rotates ? { rope: window === undefined ? full : sliding } : {}),
      ...(window === undefined ? {} : { slidingWindow: window }),
    };
  });
}

function describeLinears(
  config: ModelConfig,
  architecture: Architecture,
  base: string,
  { heads, kvHeads, headDim }: HeadShape,
): LinearDescription[] {
  const { hidden_size: hidden, intermediate_size: inner } = config;
  const linear = (role: string, rows: number, cols: number, rule: BiasRule): LinearDescription => ({
    role,
    weight: `${base}${role}.weight`,
    ...(hasBias(config, rule) ? { bias: `${base}${role}.bias` } : {}),
    rows,
    cols,
  });
  const { qkvBias, outputBias, mlpBias } = architecture;
  const attention = architecture.fused
    ? [linear("self_attn.qkv_proj", (heads + 2 * kvHeads) * headDim, hidden, qkvBias)]
    : [
      linear("self_attn.q_proj", heads * headDim, hidden, qkvBias),
      linear("self_attn.k_proj", kvHeads * headDim, hidden, qkvBias),
      linear("self_attn.v_proj", kvHeads * headDim, hidden, qkvBias),
    ];
  const mlp = architecture.fused
    ? [linear("mlp.gate_up_proj", 2 * inner, hidden, mlpBias)]
    : [linear("mlp.gate_proj", inner, hidden, mlpBias), linear("mlp.up_proj", inner, hidden, mlpBias)];
  return [
    ...attention,
    linear("self_attn.o_proj", hidden, heads * headDim, outputBias),
    ...mlp,
    linear("mlp.down_proj", hidden, inner, mlpBias),
  ];
}

function hasBias(config: ModelConfig, rule: BiasRule): boolean {
  if (rule === "attention_bias" || rule === "mlp_bias") return config[rule] ?? false;
  return rule === "always";
}
