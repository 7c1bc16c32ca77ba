import { assertEquals, assertLess } from "@std/assert";
import * as ort from "onnxruntime-node";
import { encodeModel } from "../../../pipeline/graph/encode.ts";
import { buildDecoder } from "../../../pipeline/model/decoder_graph.ts";
import { ARCHITECTURES, compareGolden, memoryWeights, readGolden } from "./golden.ts";

function int64(values: readonly number[], shape: readonly number[]): ort.Tensor {
  return new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
}

for (const name of [...ARCHITECTURES, "tiny-llama"]) {
  Deno.test(`buildDecoder() reproduces the golden logits of ${name} without a cache`, async () => {
    const { model, weights, checkpoint } = await memoryWeights(name);
    using _ = checkpoint;
    const golden = readGolden(name);
    const count = golden.input_ids.length;
    const session = await ort.InferenceSession.create(encodeModel(buildDecoder(model, weights, { cache: false })), {
      logSeverityLevel: 3,
    });
    const { logits } = await session.run({
      input_ids: int64(golden.input_ids, [1, count]),
      attention_mask: int64(golden.input_ids.map(() => 1), [1, count]),
      position_ids: int64(golden.input_ids.map((_, index) => index), [1, count]),
    });
    assertEquals(logits.dims, [1, count, model.vocabularySize]);
    const difference = compareGolden(golden, logits.data as Float32Array);
    assertLess(difference.logits, 1e-3);
    assertLess(difference.nll, 1e-4);
    await session.release();
  });
}

Deno.test("buildDecoder() with a cache names its inputs and outputs as onnxruntime-genai and transformers.js do", async () => {
  const { model, weights, checkpoint } = await memoryWeights("qwen3");
  using _ = checkpoint;
  const g = buildDecoder(model, weights);
  assertEquals(g.graphInputs.slice(0, 5).map(({ name }) => name), [
    "input_ids",
    "attention_mask",
    "position_ids",
    "past_key_values.0.key",
    "past_key_values.0.value",
  ]);
  assertEquals(g.graphOutputs.slice(0, 3).map(({ name }) => name), ["logits", "present.0.key", "present.0.value"]);
  assertEquals(g.graphInputs[3].shape, ["batch_size", 2, "past_sequence_length", 32]);
  assertEquals(g.graphOutputs[0].shape, ["batch_size", "sequence_length", 320]);
});
