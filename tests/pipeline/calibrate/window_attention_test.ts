import { assert } from "@std/assert";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { dbfLinear } from "../../../pipeline/calibrate/dbf_linear.ts";
import { disposeFeeds, readFloats } from "../../../pipeline/calibrate/engine.ts";
import { windowAttention } from "../../../pipeline/calibrate/window_attention.ts";
import { differentiate } from "../../../pipeline/graph/differentiate.ts";
import { encodeModel } from "../../../pipeline/graph/encode.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { mul, reduceSum } from "../../../pipeline/graph/ops.ts";
import { provider } from "../../kernels/runtime/graphs.ts";
import type { BlockDescription, ModelDescription } from "../../../pipeline/model/types.ts";

const HEADS = 4, KV_HEADS = 2, HEAD_DIM = 8;
const MODEL = {
  heads: HEADS,
  kvHeads: KV_HEADS,
  headDim: HEAD_DIM,
  attentionScale: HEAD_DIM ** -0.5,
} as unknown as ModelDescription;

const wave = (length: number, seed: number) =>
  Float32Array.from({ length }, (_, at) => Math.sin(0.7 * at + seed) * Math.cos(0.013 * at * seed));

/** Causal attention of one window in float64, and the gradients of Σ gradient ⊙ output at queries, keys and values. */
function twin(
  tokens: number,
  slidingWindow: number | undefined,
  q: Float32Array,
  k: Float32Array,
  v: Float32Array,
  gradient: Float32Array,
) {
  const width = HEADS * HEAD_DIM, kvWidth = KV_HEADS * HEAD_DIM;
  const output = new Float64Array(tokens * width);
  const dq = new Float64Array(q.length), dk = new Float64Array(k.length), dv = new Float64Array(v.length);
  for (let head = 0; head < HEADS; head++) {
    const own = head * HEAD_DIM, shared = Math.floor(head / (HEADS / KV_HEADS)) * HEAD_DIM;
    for (let row = 0; row < tokens; row++) {
      const first = Math.max(0, row + 1 - (slidingWindow ?? Infinity));
      const dot = (x: Float32Array, at: number, y: Float32Array, other: number) => {
        let sum = 0;
        for (let i = 0; i < HEAD_DIM; i++) sum += x[at + i] * y[other + i];
        return sum;
      };
      const at = row * width + own;
      const keys = Array.from({ length: row - first + 1 }, (_, i) => (first + i) * kvWidth + shared);
      const weights = keys.map((key) => Math.exp(dot(q, at, k, key) * MODEL.attentionScale));
      const total = weights.reduce((a, b) => a + b, 0);
      const shares = weights.map((each) => each / total);
      const pulls = keys.map((key) => dot(gradient, at, v, key));
      const mean = shares.reduce((sum, share, i) => sum + share * pulls[i], 0);
      keys.forEach((key, n) => {
        const atScore = shares[n] * (pulls[n] - mean) * MODEL.attentionScale;
        for (let i = 0; i < HEAD_DIM; i++) {
          output[at + i] += shares[n] * v[key + i];
          dq[at + i] += atScore * k[key + i];
          dk[key + i] += atScore * q[at + i];
          dv[key + i] += shares[n] * gradient[at + i];
        }
      });
    }
  }
  return { output, dq, dk, dv };
}

function largestDifference(found: Float32Array, expected: Float64Array): number {
  return expected.reduce((most, value, at) => Math.max(most, Math.abs(value - found[at])), 0);
}

Deno.test("windowAttention() and its gradients are those of causal attention, in one piece or several, with sliding windows", async () => {
  await using runtime = await openRuntime({ provider, threads: 1 });
  for (const [tokens, slidingWindow] of [[1, undefined], [256, undefined], [257, 3], [600, undefined], [600, 300]]) {
    const block = { norms: {}, slidingWindow } as unknown as BlockDescription;
    const g = createGraph("attention");
    const inputs = [["query", HEADS], ["key", KV_HEADS], ["value", KV_HEADS]].map(([name, heads]) =>
      g.input(name as string, "float32", [1, tokens!, heads as number * HEAD_DIM])
    );
    const [query, key, value] = inputs;
    const { output } = windowAttention(g, MODEL, undefined)(block, { query, key, value }, (_, x) => x);
    const gradient = g.input("gradient", "float32", [1, tokens!, HEADS * HEAD_DIM]);
    g.output("output", output);
    const loss = reduceSum(g, mul(g, output, gradient), [0, 1, 2], false);
    differentiate(g, loss, inputs).forEach((found, at) => g.output(`d${inputs[at].name}`, found));
    const data = Object.fromEntries(
      [...inputs, gradient].map(({ name, shape }, at) =>
        [name, wave((shape as number[]).reduce((a, b) => a * b), at + 1)] as const
      ),
    );
    const feeds = Object.fromEntries(
      [...inputs, gradient].map(({ name, shape }) =>
        [name, runtime.tensor("float32", data[name], shape as number[])] as const
      ),
    );
    await using session = await runtime.load(encodeModel(g), { tf32: false });
    const found = await session.run(feeds);
    const expected = twin(tokens!, slidingWindow, data.query, data.key, data.value, data.gradient);
    for (
      const [name, values] of [
        ["output", expected.output],
        ["dquery", expected.dq],
        ["dkey", expected.dk],
        ["dvalue", expected.dv],
      ] as const
    ) {
      const difference = largestDifference(await readFloats(found[name]), values);
      assert(difference < 1e-4, `${name} of ${tokens} tokens, sliding ${slidingWindow}: off by ${difference}`);
    }
    disposeFeeds(feeds);
  }
});

Deno.test("a double-binary linear gives y = x·Ŵᵀ with its weight multiplied out and with two products", async () => {
  await using runtime = await openRuntime({ provider, threads: 1 });
  const forms = new Set<number>();
  for (const [rows, cols, rank, tokens] of [[33, 17, 11, 1], [17, 33, 11, 7], [24, 40, 15, 200], [5, 9, 7, 64]]) {
    const linear = { role: "r", rows, cols }, shape = { kind: "dbf", rank } as const;
    const g = createGraph("linear");
    const segments = [...dbfLinear.latents(linear, shape), ...dbfLinear.scales(linear, shape)];
    const parts = new Map(segments.map((part) => [part.name, g.input(part.name, "float32", part.shape)]));
    g.output("y", dbfLinear.product(g, g.input("x", "float32", [tokens, cols]), linear, shape, parts));
    forms.add(g.nodes.filter(({ type }) => type === "Gemm").length);
    const values = new Map(segments.map(({ name, shape }, at) => {
      const wavy = wave(shape.reduce((a, b) => a * b), at + 2);
      return [name, /[AB]$/.test(name) ? wavy.map((value) => value >= 0 ? 1 : -1) : wavy];
    }));
    const x = wave(tokens * cols, 1);
    const feeds = Object.fromEntries([
      ["x", runtime.tensor("float32", x, [tokens, cols])],
      ...segments.map(({ name, shape }) => [name, runtime.tensor("float32", values.get(name)!, [...shape])]),
    ]);
    const [A, B, a, mid, b] = segments.map(({ name }) => values.get(name)!);
    await using session = await runtime.load(encodeModel(g), { tf32: false });
    const found = await readFloats((await session.run(feeds)).y);
    for (let token = 0; token < tokens; token++) {
      for (let row = 0; row < rows; row++) {
        let expected = 0;
        for (let j = 0; j < rank; j++) {
          let inner = 0;
          for (let col = 0; col < cols; col++) inner += B[j * cols + col] * b[col] * x[token * cols + col];
          expected += a[row] * A[row * rank + j] * mid[j] * inner;
        }
        assert(Math.abs(found[token * rows + row] - expected) < 1e-4, `${[rows, cols, rank, tokens]}: ${token} ${row}`);
      }
    }
    disposeFeeds(feeds);
  }
  assert(forms.size === 2, `both forms are tested: ${[...forms]} products beside the weight's own`);
});
