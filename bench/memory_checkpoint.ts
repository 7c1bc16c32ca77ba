/**
 * Checkpoints of any size, of which only some blocks take room on disk.
 *
 * @module
 */

/** Sizes of a llama decoder. */
export interface LlamaShape {
  readonly hidden: number;
  readonly intermediate: number;
  readonly vocabulary: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly blocks: number;
  /** Blocks that hold random numbers; the others, the embedding and the head are holes of zeros. */
  readonly filledBlocks: number;
  /** Fill the embedding and the head, too: needed where the model runs. */
  readonly filledEnds?: boolean;
}

const MIB = 1 << 20;

interface TensorPlace {
  readonly name: string;
  readonly shape: readonly number[];
}

function blockTensors(shape: LlamaShape, block: number): TensorPlace[] {
  const { hidden, intermediate, heads, kvHeads, headDim } = shape;
  const at = `model.layers.${block}.`;
  const kv = kvHeads * headDim;
  return [
    { name: `${at}input_layernorm.weight`, shape: [hidden] },
    { name: `${at}self_attn.q_proj.weight`, shape: [heads * headDim, hidden] },
    { name: `${at}self_attn.k_proj.weight`, shape: [kv, hidden] },
    { name: `${at}self_attn.v_proj.weight`, shape: [kv, hidden] },
    { name: `${at}self_attn.o_proj.weight`, shape: [hidden, heads * headDim] },
    { name: `${at}post_attention_layernorm.weight`, shape: [hidden] },
    { name: `${at}mlp.gate_proj.weight`, shape: [intermediate, hidden] },
    { name: `${at}mlp.up_proj.weight`, shape: [intermediate, hidden] },
    { name: `${at}mlp.down_proj.weight`, shape: [hidden, intermediate] },
  ];
}

/** Random bf16 bits around ±2⁻⁶, from a xorshift generator: enough to have no structure. */
function fillRandomBf16(words: Uint32Array, state: number): number {
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = (state & 0x80ff80ff) | 0x3c003c00;
  }
  return state;
}

/** Writes one shard: header, then a hole of the tensors' size, filled with random numbers where asked. */
async function writeShard(path: string, tensors: readonly TensorPlace[], filled: boolean): Promise<number> {
  let offset = 0;
  const header: Record<string, unknown> = {};
  for (const { name, shape } of tensors) {
    const bytes = 2 * shape.reduce((a, b) => a * b, 1);
    header[name] = { dtype: "BF16", shape, data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  let json = JSON.stringify(header);
  json += " ".repeat((8 - (json.length % 8)) % 8);
  const head = new Uint8Array(8 + json.length);
  new DataView(head.buffer).setBigUint64(0, BigInt(json.length), true);
  head.set(new TextEncoder().encode(json), 8);
  using file = await Deno.open(path, { create: true, write: true, truncate: true });
  await file.write(head);
  if (filled) {
    const words = new Uint32Array(4 * MIB);
    let state = 0x9e3779b9;
    for (let left = offset; left > 0;) {
      state = fillRandomBf16(words, state);
      const chunk = new Uint8Array(words.buffer, 0, Math.min(left, words.byteLength));
      for (let at = 0; at < chunk.length;) at += await file.write(chunk.subarray(at));
      left -= chunk.length;
    }
  }
  await file.truncate(head.length + offset);
  return offset;
}

/**
 * Writes a checkpoint.
 *
 * @returns Its size in bytes, holes included.
 */
export async function writeLlama(directory: string, shape: LlamaShape): Promise<number> {
  const { hidden, vocabulary, blocks, filledBlocks, filledEnds = false } = shape;
  await Deno.mkdir(directory, { recursive: true });
  const weightMap: Record<string, string> = {};
  let total = 0;
  const add = async (file: string, tensors: readonly TensorPlace[], filled: boolean) => {
    total += await writeShard(`${directory}/${file}`, tensors, filled);
    for (const { name } of tensors) weightMap[name] = file;
  };
  await add("embed.safetensors", [{ name: "model.embed_tokens.weight", shape: [vocabulary, hidden] }], filledEnds);
  for (let block = 0; block < blocks; block++) {
    await add(`block-${block}.safetensors`, blockTensors(shape, block), block < filledBlocks);
  }
  await add("head.safetensors", [
    { name: "model.norm.weight", shape: [hidden] },
    { name: "lm_head.weight", shape: [vocabulary, hidden] },
  ], filledEnds);
  await Deno.writeTextFile(
    `${directory}/model.safetensors.index.json`,
    JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap }),
  );
  await Deno.writeTextFile(
    `${directory}/config.json`,
    JSON.stringify({
      architectures: ["LlamaForCausalLM"],
      model_type: "llama",
      hidden_size: hidden,
      intermediate_size: shape.intermediate,
      num_hidden_layers: blocks,
      num_attention_heads: shape.heads,
      num_key_value_heads: shape.kvHeads,
      head_dim: shape.headDim,
      vocab_size: vocabulary,
      max_position_embeddings: 8192,
      rms_norm_eps: 1e-5,
      hidden_act: "silu",
      rope_theta: 500000,
      tie_word_embeddings: false,
      torch_dtype: "bfloat16",
      bos_token_id: 0,
      eos_token_id: 1,
    }),
  );
  return total;
}
