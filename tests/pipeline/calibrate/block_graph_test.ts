import { LAYER_KINDS } from "../../../pipeline/calibrate/layer_kinds.ts";
import { assert, assertAlmostEquals } from "@std/assert";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import type { BlockGraphOptions, LinearTreatment } from "../../../pipeline/calibrate/block_graph.ts";
import { blockLayout } from "../../../pipeline/calibrate/block_graph.ts";
import { openEmbedding } from "../../../pipeline/calibrate/embedding.ts";
import { disposeFeeds, feedsFor, openBlockEngine, readFloats, readScalar } from "../../../pipeline/calibrate/engine.ts";
import { openHead } from "../../../pipeline/calibrate/head.ts";
import { cutSegments, flatLength, joinSegments } from "../../../pipeline/calibrate/parameters.ts";
import { openCheckpoint } from "../../../pipeline/checkpoint/open.ts";
import { describeModel } from "../../../pipeline/model/describe.ts";
import type { BlockDescription } from "../../../pipeline/model/types.ts";
import { goldenArray, readGolden, relativeError } from "./golden.ts";

const all = (block: BlockDescription, treatment: LinearTreatment) =>
  new Map(block.linears.map(({ role }) => [role, treatment]));

Deno.test("buildBlockGraph() backward gives PyTorch's weight gradients of tiny-llama", async () => {
  const golden = await readGolden();
  using checkpoint = await openCheckpoint("tests/fixtures/tiny-llama");
  const model = describeModel(checkpoint.config, checkpoint.tensors);
  await using runtime = await openRuntime({ threads: 1 });
  await using engine = openBlockEngine(runtime, model, checkpoint);
  await using head = await openHead(runtime, model, checkpoint);
  const windows = golden.windows, tokens = windows[0].length, batch = windows.length;
  const shape = [batch, tokens, model.hiddenSize];
  const inputs = [await openEmbedding(checkpoint, model)(windows)];
  for (const block of model.blocks) {
    const session = await engine.session(block, { kind: "forward", batch, tokens, linears: all(block, "frozen") });
    const x = runtime.tensor("float32", inputs[block.index], shape);
    const feeds = feedsFor(session, await engine.vectors(block), await engine.weights(block), { x });
    inputs.push(await readFloats((await session.run(feeds)).y));
    disposeFeeds(feeds);
  }
  using output = runtime.tensor("float32", inputs.pop()!, shape);
  const loss = await head.crossEntropyGradient(output, windows);
  assertAlmostEquals(loss.loss, golden.loss, 1e-4 * golden.loss);
  assertAlmostEquals(await head.crossEntropy(output, windows), golden.loss, 1e-4 * golden.loss);
  let gradient = await readFloats(loss.gradient);
  for (const block of [...model.blocks].reverse()) {
    const options: BlockGraphOptions = { kind: "backward", batch, tokens, linears: all(block, "trained") };
    const session = await engine.session(block, options);
    const { dense: segments } = blockLayout(block, options.linears);
    const weights = new Map<string, Float32Array>();
    for (const { role, weight } of block.linears) weights.set(role, await checkpoint.tensor(weight).read());
    const feeds = feedsFor(session, await engine.vectors(block), {
      x: runtime.tensor("float32", inputs[block.index], shape),
      gradient: runtime.tensor("float32", gradient, shape),
      dense: runtime.tensor("float32", joinSegments(segments, weights), [flatLength(segments)]),
    });
    const found = await session.run(feeds);
    gradient = await readFloats(found.x_gradient);
    const pieces = cutSegments(segments, await readFloats(found.dense_gradient));
    disposeFeeds(feeds);
    for (const { role, weight } of block.linears) {
      const piece = pieces.get(role)!;
      const stride = Math.floor(piece.length / 64);
      const sample = Float32Array.from({ length: 64 }, (_, index) => piece[index * stride]);
      const error = relativeError(sample, goldenArray(golden, `${weight}/sample`));
      const norm = relativeError([norm2(piece)], goldenArray(golden, `${weight}/norm`));
      assert(error < 1e-3 && norm < 1e-4, `${weight}: samples off by ${error}, norm by ${norm}`);
    }
  }
});

function norm2(values: Float32Array): number {
  let sum = 0;
  for (const value of values) sum += value * value;
  return Math.sqrt(sum);
}

const KINDS: readonly LinearTreatment[] = [
  { kind: "dbf", rank: 8 },
  { kind: "nbits", bits: 3, group: 16 },
  "frozen",
  { kind: "sign" },
  { kind: "nbits", bits: 2, group: 128 },
];

Deno.test("buildBlockGraph() tune gives scale gradients of linears of every kind as central differences do", async () => {
  using checkpoint = await openCheckpoint("tests/fixtures/architectures/qwen3");
  const model = describeModel(checkpoint.config, checkpoint.tensors);
  await using runtime = await openRuntime({ threads: 1 });
  await using engine = openBlockEngine(runtime, model, checkpoint);
  const block = model.blocks[0], batch = 1, tokens = 5;
  const linears = new Map<string, LinearTreatment>(block.linears.map(({ role }, index) => [
    role,
    KINDS[index % KINDS.length],
  ]));
  const session = await engine.session(block, { kind: "tune", batch, tokens, linears });
  const { latents, scales } = blockLayout(block, linears);
  let state = 1;
  const random = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  const draw = (length: number, low: number, high: number) =>
    Float32Array.from({ length }, () => low + (high - low) * random());
  const shape = [batch, tokens, model.hiddenSize], size = tokens * model.hiddenSize;
  const values = draw(flatLength(scales), 0.2, 0.6);
  const fixed = Object.fromEntries(block.linears.flatMap((linear) => {
    const treatment = linears.get(linear.role)!;
    return typeof treatment === "string" ? [] : LAYER_KINDS[treatment.kind].fixed(linear, treatment).map((part) => {
      const data = Uint8Array.from(
        { length: flatLength([part]) },
        () => part.name.endsWith("zeros") ? 1 : 256 * random(),
      );
      return [`fixed/${part.name}`, runtime.tensor(part.dtype, data, part.shape)];
    });
  }));
  const feeds = {
    ...fixed,
    ...await engine.vectors(block),
    ...await engine.weights(block),
    x: runtime.tensor("float32", draw(size, -1, 1), shape),
    target: runtime.tensor("float32", draw(size, -1, 1), shape),
    weights: runtime.tensor("float32", draw(model.hiddenSize, 0.5, 1.5), [model.hiddenSize]),
    latents: runtime.tensor("float32", draw(flatLength(latents), -1, 1), [flatLength(latents)]),
  };
  const run = async (scale: Float32Array) => {
    using scales = runtime.tensor("float32", scale, [scale.length]);
    const { loss, latents_gradient, scales_gradient } = await session.run(feedsFor(session, feeds, { scales }));
    latents_gradient[Symbol.dispose]();
    return { loss: await readScalar(loss), gradient: await readFloats(scales_gradient) };
  };
  const analytic = (await run(values)).gradient;
  const largest = analytic.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  for (let at = 0; at < values.length; at += 17) {
    const moved = async (by: number) => {
      const other = values.slice();
      other[at] += by;
      return (await run(other)).loss;
    };
    const numeric = (await moved(1e-2) - await moved(-1e-2)) / 2e-2;
    assertAlmostEquals(analytic[at], numeric, 2e-2 * largest, `scale ${at}`);
  }
  disposeFeeds(feeds);
});
