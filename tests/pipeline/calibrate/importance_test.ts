import { assert, assertAlmostEquals, assertRejects } from "@std/assert";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { openBlockEngine } from "../../../pipeline/calibrate/engine.ts";
import { activationStatistics, fisherDiagonal } from "../../../pipeline/calibrate/importance.ts";
import { openCheckpoint } from "../../../pipeline/checkpoint/open.ts";
import { describeModel } from "../../../pipeline/model/describe.ts";
import { goldenArray, readGolden, relativeError } from "./golden.ts";

const MODEL = "tests/fixtures/tiny-llama";

Deno.test("fisherDiagonal() matches PyTorch's sums on tiny-llama to 1e-3", async () => {
  const golden = await readGolden();
  using checkpoint = await openCheckpoint(MODEL);
  const model = describeModel(checkpoint.config, checkpoint.tensors);
  await using runtime = await openRuntime({ threads: 1 });
  await using engine = openBlockEngine(runtime, model, checkpoint);
  // batches of 4 and 2, and two chunks, so that sums cross both
  const { layers, loss } = await fisherDiagonal(engine, golden.windows, { batchTokens: 4 * 48, storeBytes: 1 });
  assertAlmostEquals(loss * 6 * 47, golden.loss, 1e-3 * golden.loss);
  for (const block of model.blocks) {
    for (const { weight } of block.linears) {
      const name = weight.replace(/\.weight$/, "");
      const found = layers.get(weight)!;
      const input = relativeError(found.input, goldenArray(golden, `${name}/input`));
      const output = relativeError(found.output, goldenArray(golden, `${name}/output`));
      assert(input < 1e-3 && output < 1e-3, `${name}: input off by ${input}, output by ${output}`);
    }
  }
});

Deno.test("activationStatistics() gives the inputs' mean squares and ones for the outputs", async () => {
  const golden = await readGolden();
  using checkpoint = await openCheckpoint(MODEL);
  const model = describeModel(checkpoint.config, checkpoint.tensors);
  await using runtime = await openRuntime({ threads: 1 });
  await using engine = openBlockEngine(runtime, model, checkpoint);
  const { layers } = await activationStatistics(engine, golden.windows);
  const name = "model.layers.2.mlp.down_proj";
  const found = layers.get(`${name}.weight`)!;
  assert(relativeError(found.input, goldenArray(golden, `${name}/input`)) < 1e-3);
  assert(found.output.every((value) => value === 1));
});

Deno.test("fisherDiagonal() refuses to run without calibration windows", async () => {
  using checkpoint = await openCheckpoint(MODEL);
  const model = describeModel(checkpoint.config, checkpoint.tensors);
  await using runtime = await openRuntime({ threads: 1 });
  await using engine = openBlockEngine(runtime, model, checkpoint);
  await assertRejects(() => fisherDiagonal(engine, []), RangeError, "--calibration");
});
