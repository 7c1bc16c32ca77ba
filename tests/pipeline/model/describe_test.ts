import { assert, assertEquals, assertThrows } from "@std/assert";
import { openCheckpoint } from "../../../pipeline/checkpoint/open.ts";
import { checkDescription, neededTensors } from "../../../pipeline/model/check.ts";
import { ARCHITECTURES } from "../../../pipeline/model/architectures.ts";
import { describeModel, truncateBlocks } from "../../../pipeline/model/describe.ts";

const fixtures = new URL("../../fixtures/", import.meta.url).pathname;
const base = {
  model_type: "llama",
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 320,
};

for (const { name } of Deno.readDirSync(`${fixtures}architectures`)) {
  Deno.test(`describeModel() names every tensor of the ${name} fixture with its shape, and no other`, async () => {
    using checkpoint = await openCheckpoint(`${fixtures}architectures/${name}`);
    const model = describeModel(checkpoint.config, checkpoint.tensors);
    checkDescription(model, checkpoint);
    assertEquals(neededTensors(model).map((tensor) => tensor.name).sort(), [...checkpoint.tensors.keys()].sort());
  });
}

Deno.test("describeModel() finds the prefix of names and ties the head where none is stored", () => {
  for (const prefix of ["", "model.", "model.language_model."]) {
    const model = describeModel(base, new Set([`${prefix}embed_tokens.weight`]));
    assertEquals(model.embedding, `${prefix}embed_tokens.weight`);
    assertEquals(model.head, model.embedding);
    assert(model.tiedHead);
  }
  const separate = describeModel(base, new Set(["model.embed_tokens.weight", "lm_head.weight"]));
  assertEquals([separate.tiedHead, separate.head], [false, "lm_head.weight"]);
});

Deno.test("describeModel() reads biases, windows and special tokens", () => {
  const model = describeModel(
    {
      ...base,
      model_type: "qwen2",
      use_sliding_window: true,
      sliding_window: 32,
      max_window_layers: 1,
      eos_token_id: 7,
    },
    undefined,
    { eos_token_id: [1, 2], bos_token_id: 3 },
  );
  assertEquals(model.blocks.map((block) => block.slidingWindow), [undefined, 32]);
  assertEquals(model.blocks[0].linears.map(({ bias }) => bias !== undefined), [
    true,
    true,
    true,
    false,
    false,
    false,
    false,
  ]);
  assertEquals(model.tokens, { bos: 3, eos: [1, 2] });
  assertEquals(describeModel({ ...base, eos_token_id: 7 }).tokens.eos, [7]);
});

Deno.test("describeModel() refuses experts, unknown families, integer quantization and encoders with the way out", () => {
  const refuse = (extra: Record<string, unknown>, message: string) =>
    assertThrows(() => describeModel({ ...base, ...extra }), TypeError, message);
  refuse({ num_local_experts: 8 }, '"num_local_experts"');
  refuse({ model_type: "mamba" }, Object.keys(ARCHITECTURES).join(", "));
  refuse({ model_type: undefined }, "missing");
  refuse({ quantization_config: { quant_method: "gptq" } }, "Give the original model");
  refuse({ use_bidirectional_attention: true }, "encoder");
});

Deno.test("describeModel() bounds every size and names the field", () => {
  const refuse = (extra: Record<string, unknown>, field: string) =>
    assertThrows(() => describeModel({ ...base, ...extra }), RangeError, field);
  refuse({ hidden_size: 1e15 }, "hidden_size");
  refuse({ num_hidden_layers: 1e9 }, "num_hidden_layers");
  refuse({ vocab_size: -1 }, "vocab_size");
  refuse({ intermediate_size: undefined }, "intermediate_size");
  refuse({ rms_norm_eps: "small" }, "rms_norm_eps");
  refuse({ num_key_value_heads: 3 }, "num_key_value_heads");
  refuse({ num_attention_heads: 7, num_key_value_heads: 7 }, "num_attention_heads");
  refuse({ hidden_act: "relu" }, "hidden_act");
  refuse({ model_type: "qwen3", layer_types: ["linear_attention", "full_attention"] }, "layer_types.0");
});

Deno.test("truncateBlocks() keeps names and indices, and refuses ranges outside the model", () => {
  const model = describeModel(base);
  assertEquals(truncateBlocks(model, [1, 1]).blocks, [model.blocks[1]]);
  for (const range of [[-1, 0], [1, 0], [0, 2], [0.5, 1]] as const) {
    assertThrows(() => truncateBlocks(model, range), RangeError, "0-1");
  }
});

Deno.test("checkDescription() lists missing, misshapen and unknown tensors", async () => {
  using checkpoint = await openCheckpoint(`${fixtures}architectures/qwen2`);
  const asLlama = describeModel({ ...checkpoint.config, model_type: "llama" }, checkpoint.tensors);
  assertThrows(() => checkDescription(asLlama, checkpoint), TypeError, "model.layers.0.self_attn.q_proj.bias");
  const wider = describeModel({ ...checkpoint.config, intermediate_size: 161 }, checkpoint.tensors);
  assertThrows(() => checkDescription(wider, checkpoint), TypeError, "161");
  const deeper = describeModel(
    { ...checkpoint.config, num_hidden_layers: 3, layer_types: undefined },
    checkpoint.tensors,
  );
  assertThrows(() => checkDescription(deeper, checkpoint), TypeError, "model.layers.2");
});
