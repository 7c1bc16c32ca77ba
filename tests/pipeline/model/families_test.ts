import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { openCheckpoint } from "../../../pipeline/checkpoint/open.ts";
import { describeCheckpoint } from "../../../pipeline/model/check.ts";
import { describeModel } from "../../../pipeline/model/describe.ts";

const FIXTURES = new URL("../../fixtures/", import.meta.url).pathname;

const LLAMA = {
  model_type: "llama",
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 320,
  max_position_embeddings: 128,
};

Deno.test("describeModel() reads the factors, norms and windows that distinguish the families", async () => {
  const describe = async (name: string) => {
    using checkpoint = await openCheckpoint(`${FIXTURES}architectures/${name}`);
    return describeCheckpoint(checkpoint);
  };
  const gemma2 = await describe("gemma2");
  assertEquals([gemma2.attentionSoftcap, gemma2.logitSoftcap, gemma2.embeddingScale], [50, 30, 8]);
  assertEquals([gemma2.attentionScale, gemma2.normAddsOne, gemma2.activation], [1 / 16, true, "gelu_tanh"]);
  assertEquals(gemma2.blocks.map(({ slidingWindow }) => slidingWindow), [16, undefined]);
  assertEquals(Object.keys(gemma2.blocks[0].norms).length, 4);
  const gemma3 = await describe("gemma3_text");
  assertEquals([gemma3.attentionSoftcap, gemma3.logitSoftcap], [undefined, undefined]);
  assertEquals(gemma3.blocks[0].rope?.inverseFrequencies[1], 10_000 ** (-2 / 16));
  assertEquals(gemma3.blocks[0].qkNormScope, "head");
  const granite = await describe("granite");
  assertEquals([granite.embeddingScale, granite.attentionScale], [2, 0.3]);
  assertEquals([granite.residualScale, granite.logitsDivisor], [0.5, 4]);
  const olmo2 = await describe("olmo2");
  assertEquals(olmo2.blocks[0].qkNormScope, "full");
  assertEquals([olmo2.blocks[0].norms.beforeAttention, olmo2.blocks[0].norms.beforeMlp], [undefined, undefined]);
  assertEquals((await describe("qwen3")).headDim, 32);
  assertEquals((await describe("qwen2")).blocks[0].linears[0].bias, "model.layers.0.self_attn.q_proj.bias");
  assertEquals((await describe("phi3")).blocks[0].linears.map(({ role }) => role), [
    "self_attn.qkv_proj",
    "self_attn.o_proj",
    "mlp.gate_up_proj",
    "mlp.down_proj",
  ]);
});

Deno.test("describeModel() takes older spellings for the same model", () => {
  const scaling = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 32 };
  const today = describeModel({
    ...LLAMA,
    dtype: "float32",
    rope_parameters: { rope_theta: 500000, rope_type: "llama3", ...scaling },
  });
  for (const kind of ["type", "rope_type"]) {
    const older = {
      ...LLAMA,
      torch_dtype: "float32",
      rope_theta: 500000,
      rope_scaling: { [kind]: "llama3", ...scaling },
    };
    assertEquals(describeModel(older), today);
  }
  const plain = describeModel({ ...LLAMA, rope_theta: 500000, rope_scaling: null });
  assertEquals(plain, describeModel({ ...LLAMA, rope_parameters: { rope_theta: 500000, rope_type: "default" } }));
});

Deno.test("describeModel() gives Gemma 3's full-attention blocks their own rotation in both spellings", () => {
  const base = { ...LLAMA, model_type: "gemma3_text", num_hidden_layers: 6, head_dim: 16, sliding_window: 8 };
  const older = describeModel({
    ...base,
    sliding_window_pattern: 3,
    rope_theta: 1e6,
    rope_local_base_freq: 1e4,
    rope_scaling: { rope_type: "linear", factor: 8 },
  });
  assertEquals(older.blocks.map(({ slidingWindow }) => slidingWindow ?? 0), [8, 8, 0, 8, 8, 0]);
  assertEquals(older.blocks[2].rope?.inverseFrequencies[0], 1 / 8);
  assertEquals(older.blocks[1].rope?.inverseFrequencies[0], 1);
  const today = describeModel({
    ...base,
    _sliding_window_pattern: 3,
    rope_parameters: {
      full_attention: { rope_theta: 1e6, rope_type: "linear", factor: 8 },
      sliding_attention: { rope_theta: 1e4, rope_type: "default" },
    },
  });
  assertEquals(today, older);
});

Deno.test("describeModel() leaves out rotation where SmolLM3 says so, by list or by interval", () => {
  const base = { ...LLAMA, model_type: "smollm3" };
  const rotating = (config: Record<string, unknown>) =>
    describeModel(config).blocks.map(({ rope }) => rope !== undefined);
  assertEquals(rotating({ ...base, no_rope_layers: [1, 0, 1, 0] }), [true, false, true, false]);
  assertEquals(rotating({ ...base, no_rope_layer_interval: 4 }), [true, true, true, false]);
});

Deno.test("describeModel() windows blocks of Mistral and Qwen as config.json says", () => {
  const windows = (config: Record<string, unknown>) =>
    describeModel({ ...LLAMA, ...config }).blocks.map(({ slidingWindow }) => slidingWindow ?? 0);
  assertEquals(windows({ model_type: "mistral", sliding_window: 9 }), [9, 9, 9, 9]);
  assertEquals(windows({ model_type: "mistral", sliding_window: null }), [0, 0, 0, 0]);
  const qwen = { model_type: "qwen2", sliding_window: 9, max_window_layers: 2 };
  assertEquals(windows({ ...qwen, use_sliding_window: false }), [0, 0, 0, 0]);
  assertEquals(windows({ ...qwen, use_sliding_window: true }), [0, 0, 9, 9]);
  const types = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"];
  assertEquals(windows({ ...qwen, use_sliding_window: true, layer_types: types }), [9, 0, 0, 9]);
  assertThrows(
    () => windows({ ...qwen, use_sliding_window: true, layer_types: ["linear_attention"] }),
    RangeError,
    "layer_types.0",
  );
});

Deno.test("describeModel() answers any config.json with a description of bounded size or a clear error", () => {
  const fields = [...Object.keys(LLAMA), "head_dim", "rope_scaling", "rope_parameters", "layer_types", "eos_token_id"];
  const change = fc.tuple(fc.constantFrom(...fields), fc.jsonValue());
  fc.assert(fc.property(fc.array(change, { maxLength: 3 }), (changes) => {
    const started = performance.now();
    try {
      const model = describeModel({ ...LLAMA, ...Object.fromEntries(changes) });
      assert(model.blocks.length <= 1024);
    } catch (error) {
      assert(error instanceof RangeError || error instanceof TypeError, String(error));
      assert(error.message.startsWith("Cannot "), error.message);
    }
    assert(performance.now() - started < 1000);
  }));
});
