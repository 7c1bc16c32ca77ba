import { assertAlmostEquals, assertEquals, assertLess } from "@std/assert";
import * as ort from "onnxruntime-node";
import { encodeModel } from "../../../pipeline/graph/encode.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { rotate } from "../../../pipeline/model/decoder_attention.ts";
import { decoderContext } from "../../../pipeline/model/decoder_context.ts";
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

Deno.test("rotate() turns pairs half a rotation apart and leaves the rest of a head, as in f64", async () => {
  const { model, checkpoint } = await memoryWeights("llama");
  using _ = checkpoint;
  const frequencies = [1, 0.3, 0.01], headDim = 10;
  const rope = { inverseFrequencies: frequencies, attentionFactor: 1.25, rotaryDim: 6 };
  const g = createGraph("rotation");
  const x = g.input("x", "float32", ["batch", 2, "sequence", headDim]);
  const positionIds = g.input("position_ids", "int64", ["batch", "sequence"]);
  const { rotation } = decoderContext(g, model, { positionIds }).block({ ...model.blocks[0], rope });
  g.output("y", rotate(g, x, rotation!));
  const session = await ort.InferenceSession.create(encodeModel(g), { logSeverityLevel: 3 });
  const positions = [0, 7, 100], values = Float32Array.from({ length: 60 }, (_, at) => Math.sin(at));
  const { y } = await session.run({
    x: new ort.Tensor("float32", values, [1, 2, 3, headDim]),
    position_ids: int64(positions, [1, 3]),
  });
  for (let row = 0; row < 6; row++) {
    const head = values.subarray(row * headDim, (row + 1) * headDim), position = positions[row % 3];
    for (let at = 0; at < headDim; at++) {
      const angle = position * frequencies[at % 3], partner = at < 3 ? -head[at + 3] : head[at - 3];
      const expected = at < 6 ? 1.25 * (head[at] * Math.cos(angle) + partner * Math.sin(angle)) : head[at];
      assertAlmostEquals(Number(y.data[row * headDim + at]), expected, 1e-5);
    }
  }
  await session.release();
});

Deno.test("buildDecoder() takes longrope's long frequencies once a sequence reaches beyond the trained length", async () => {
  const run = async (frequencies: "short" | "long" | "both", count: number): Promise<Float32Array> => {
    const { model, weights, checkpoint } = await memoryWeights("llama");
    using _ = checkpoint;
    const short = model.blocks[0].rope!, longer = short.inverseFrequencies.map((each) => each / 4);
    const rope = {
      short,
      long: { ...short, inverseFrequencies: longer },
      both: { ...short, long: { after: 20, inverseFrequencies: longer } },
    }[frequencies];
    const changed = { ...model, blocks: model.blocks.map((block) => ({ ...block, rope })) };
    const bytes = encodeModel(buildDecoder(changed, weights, { cache: false }));
    const session = await ort.InferenceSession.create(bytes, { logSeverityLevel: 3 });
    const ids = readGolden("llama").input_ids.slice(0, count);
    const { logits } = await session.run({
      input_ids: int64(ids, [1, count]),
      attention_mask: int64(ids.map(() => 1), [1, count]),
      position_ids: int64(ids.map((_, index) => index), [1, count]),
    });
    await session.release();
    return logits.data as Float32Array;
  };
  assertEquals(await run("both", 20), await run("short", 20));
  assertEquals(await run("both", 21), await run("long", 21));
});
