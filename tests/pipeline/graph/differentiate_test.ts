import { assert, assertEquals, assertThrows } from "@std/assert";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import type { DType, TensorData } from "../../../kernels/runtime/types.ts";
import { differentiate } from "../../../pipeline/graph/differentiate.ts";
import { encodeModel } from "../../../pipeline/graph/encode.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import type { Graph, Value } from "../../../pipeline/graph/types.ts";

/** One operator, or a few, to check against central differences. */
interface Case {
  readonly name: string;
  readonly shapes: readonly (readonly number[])[];
  build(g: Graph, inputs: readonly Value[]): Value;
  /** `float32` where ONNX Runtime has no double kernel. */
  readonly dtype?: DType;
  /** Elements are drawn from here; default (−1.5, 1.5). */
  readonly range?: readonly [number, number];
}

const one = (type: string, attributes = {}) => (g: Graph, inputs: readonly Value[]) =>
  g.node(type, inputs, attributes)[0];
const ints = (g: Graph, values: readonly number[]) => g.constant(BigInt64Array.from(values, BigInt), [values.length]);

const CASES: readonly Case[] = [
  { name: "Add broadcasts", shapes: [[2, 3, 4], [3, 1]], build: one("Add") },
  { name: "Sub broadcasts both sides", shapes: [[2, 1, 4], [3, 1]], build: one("Sub") },
  { name: "Mul broadcasts", shapes: [[2, 3], [3]], build: one("Mul") },
  { name: "Mul of a value by itself", shapes: [[5]], build: (g, [x]) => g.node("Mul", [x, x])[0] },
  { name: "Div", shapes: [[2, 3], [3]], build: one("Div"), range: [0.5, 2] },
  { name: "Pow with a variable exponent", shapes: [[2, 3], [3]], build: one("Pow"), range: [0.5, 2] },
  { name: "Pow 2", shapes: [[4]], build: (g, [x]) => g.node("Pow", [x, g.constant(2, [], x.dtype)])[0] },
  {
    name: "Pow -0.5",
    shapes: [[4]],
    build: (g, [x]) => g.node("Pow", [x, g.constant(-0.5, [], x.dtype)])[0],
    range: [0.5, 2],
  },
  ...["Neg", "Exp", "Sin", "Cos", "Tanh", "Sigmoid", "Abs", "Identity"].map((type) => ({
    name: type,
    shapes: [[7]],
    build: one(type),
    dtype: "float64" as const,
  })),
  ...["Sqrt", "Log", "Reciprocal"].map((type) => ({
    name: type,
    shapes: [[7]],
    build: one(type),
    range: [0.5, 2] as const,
  })),
  { name: "Erf", shapes: [[7]], build: one("Erf"), dtype: "float32" },
  { name: "Gelu", shapes: [[7]], build: one("Gelu"), dtype: "float32" },
  { name: "Gelu tanh", shapes: [[7]], build: one("Gelu", { approximate: "tanh" }), dtype: "float32" },
  { name: "Max", shapes: [[2, 3], [3]], build: one("Max") },
  { name: "Min", shapes: [[2, 3], [3]], build: one("Min") },
  { name: "Softmax", shapes: [[2, 3, 4]], build: one("Softmax", { axis: -1 }) },
  { name: "Softmax of the middle axis", shapes: [[2, 3, 4]], build: one("Softmax", { axis: 1 }) },
  {
    name: "attention: weights taken by one product, reshaped",
    shapes: [[2, 3, 2, 4], [2, 4, 3]],
    build: (g, [x, v]) => {
      const weights = g.node("Reshape", [g.node("Softmax", [x], { axis: -1 })[0], ints(g, [2, 6, 4])])[0];
      return g.node("MatMul", [weights, v])[0];
    },
  },
  ...[false, true].map((same) => ({
    name: `attention: weights taken by two products of ${same ? "the same" : "different"} values`,
    shapes: [[3, 4], [4, 2], [4, 2]],
    build: (g: Graph, [x, v, w]: readonly Value[]) => {
      const weights = g.node("Softmax", [x], { axis: -1 })[0];
      const products = [v, same ? v : w].map((each) => g.node("MatMul", [weights, each])[0]);
      return g.node("Mul", products)[0];
    },
  })),
  { name: "LogSoftmax", shapes: [[2, 5]], build: one("LogSoftmax", { axis: -1 }) },
  {
    name: "ReduceSum",
    shapes: [[2, 3, 4]],
    build: (g, [x]) => g.node("ReduceSum", [x, ints(g, [0, -1])], { keepdims: 0 })[0],
  },
  {
    name: "ReduceMean",
    shapes: [[2, 3]],
    build: (g, [x]) => g.node("ReduceMean", [x, ints(g, [-1])], { keepdims: 1 })[0],
  },
  {
    name: "ReduceSumSquare",
    shapes: [[2, 3]],
    build: (g, [x]) => g.node("ReduceSumSquare", [x, ints(g, [1])], { keepdims: 0 })[0],
  },
  { name: "MatMul", shapes: [[3, 4], [4, 2]], build: one("MatMul") },
  { name: "MatMul of batches", shapes: [[2, 3, 4], [2, 4, 2]], build: one("MatMul") },
  { name: "MatMul with a shared matrix", shapes: [[2, 3, 4], [4, 2]], build: one("MatMul") },
  { name: "MatMul with broadcast batches", shapes: [[2, 1, 3, 4], [1, 3, 4, 2]], build: one("MatMul") },
  ...[[0, 0], [0, 1], [1, 0], [1, 1]].map(([transA, transB]) => ({
    name: `Gemm transA ${transA} transB ${transB}`,
    shapes: [transA ? [4, 3] : [3, 4], transB ? [2, 4] : [4, 2], [2]],
    build: one("Gemm", { transA, transB, alpha: 0.5, beta: 1.5 }),
  })),
  { name: "Transpose", shapes: [[2, 3, 4]], build: one("Transpose", { perm: [2, 0, 1] }) },
  { name: "Reshape", shapes: [[2, 6]], build: (g, [x]) => g.node("Reshape", [x, ints(g, [3, -1])])[0] },
  {
    name: "Unsqueeze and Squeeze",
    shapes: [[2, 3]],
    build: (g, [x]) => g.node("Squeeze", [g.node("Unsqueeze", [x, ints(g, [1])])[0], ints(g, [1])])[0],
  },
  { name: "Expand", shapes: [[2, 1, 3]], build: (g, [x]) => g.node("Expand", [x, ints(g, [4, 2, 5, 3])])[0] },
  { name: "Concat", shapes: [[2, 3], [2, 1]], build: one("Concat", { axis: -1 }) },
  {
    name: "Split with an unused piece",
    shapes: [[2, 6]],
    build: (g, [x]) => {
      const [a, , c] = g.node("Split", [x, ints(g, [1, 2, 3])], { axis: 1 });
      return g.node("Mul", [a, c])[0];
    },
  },
  {
    name: "Slice",
    shapes: [[4, 5]],
    build: (g, [x]) => g.node("Slice", [x, ints(g, [1, -3]), ints(g, [3, 1000]), ints(g, [0, 1])])[0],
  },
  {
    name: "Pad",
    shapes: [[2, 3]],
    build: (g, [x]) => g.node("Pad", [x, ints(g, [0, 1, 2, 0]), g.constant(0, [], x.dtype)], { mode: "constant" })[0],
  },
  {
    name: "Gather rows more than once",
    shapes: [[4, 3]],
    build: (g, [x]) => g.node("Gather", [x, g.constant(BigInt64Array.of(2n, 0n, 2n, 1n), [2, 2])], { axis: 0 })[0],
  },
  {
    name: "Gather along the last axis",
    shapes: [[2, 3, 4]],
    build: (g, [x]) => g.node("Gather", [x, ints(g, [3, 1, 3])], { axis: 2 })[0],
  },
  {
    name: "GatherElements",
    shapes: [[2, 4]],
    build: (g, [x]) =>
      g.node("GatherElements", [x, g.constant(BigInt64Array.of(3n, 3n, 0n, 1n), [2, 2])], { axis: 1 })[0],
  },
  {
    name: "Where",
    shapes: [[3], [2, 3]],
    build: (g, [x, y]) => g.node("Where", [g.node("Greater", [y, g.constant(0, [], y.dtype)])[0], x, y])[0],
  },
  {
    name: "RMS norm",
    shapes: [[2, 4], [4]],
    build: (g, [x, w]) => {
      const mean = g.node("ReduceMean", [g.node("Mul", [x, x])[0], ints(g, [-1])], { keepdims: 1 })[0];
      const root = g.node("Sqrt", [g.node("Add", [mean, g.constant(1e-5, [], x.dtype)])[0]])[0];
      return g.node("Mul", [g.node("Div", [x, root])[0], w])[0];
    },
  },
];

/** Uniform numbers from a small linear congruential generator, so that failures repeat. */
function randoms(seed: number): () => number {
  let state = seed >>> 0;
  return () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
}

for (const each of CASES) {
  Deno.test(`differentiate() of ${each.name} matches central differences`, async () => {
    const dtype = each.dtype ?? "float64";
    const [low, high] = each.range ?? [-1.5, 1.5];
    const random = randoms(each.name.length * 7919 + 1);
    const draw = (count: number) => Float64Array.from({ length: count }, () => low + (high - low) * random());
    const typed = (values: Float64Array): TensorData => dtype === "float64" ? values : Float32Array.from(values);
    const g = createGraph("case");
    const inputs = each.shapes.map((shape, index) => g.input(`x${index}`, dtype, shape));
    const y = each.build(g, inputs);
    const weights = draw(y.shape.reduce<number>((n, dim) => n * Number(dim), 1));
    const seed = g.constant(typed(weights), y.shape as number[], dtype);
    const gradients = differentiate(g, [{ value: y, gradient: seed }], inputs);
    g.output("y", y);
    gradients.forEach((gradient, index) => {
      assertEquals(gradient.shape, each.shapes[index]);
      g.output(`dx${index}`, gradient);
    });
    await using runtime = await openRuntime({ threads: 1 });
    await using session = await runtime.load(encodeModel(g));
    const values = each.shapes.map((shape) => draw(shape.reduce((n, dim) => n * dim, 1)));
    const run = async () => {
      const feeds = Object.fromEntries(
        values.map((v, i) => [`x${i}`, runtime.tensor(dtype, typed(v), each.shapes[i])]),
      );
      const outputs = await session.run(feeds);
      const read: Record<string, number[]> = {};
      for (const [name, tensor] of Object.entries(outputs)) {
        read[name] = Array.from(await tensor.read() as Float64Array);
      }
      return read;
    };
    const loss = async () => (await run()).y.reduce((sum, value, index) => sum + value * weights[index], 0);
    const analytic = await run();
    const step = dtype === "float64" ? 1e-6 : 1e-2;
    const tolerance = dtype === "float64" ? 1e-7 : 2e-3;
    for (const [which, elements] of values.entries()) {
      for (const at of elements.keys()) {
        const before = elements[at];
        elements[at] = before + step;
        const up = await loss();
        elements[at] = before - step;
        const down = await loss();
        elements[at] = before;
        const numeric = (up - down) / (2 * step);
        const found = analytic[`dx${which}`][at];
        assert(
          Math.abs(numeric - found) <= tolerance * (1 + Math.abs(numeric)),
          `d/dx${which}[${at}]: ${found}, by differences ${numeric}`,
        );
      }
    }
  });
}

Deno.test("differentiate() passes the gradient of a straight-through sign to its latent", async () => {
  const g = createGraph("sign");
  const latent = g.input("latent", "float32", [4]);
  const [positive] = g.node("GreaterOrEqual", [latent, g.constant(0)]);
  const [sign] = g.node("Where", [positive, g.constant(1), g.constant(-1)], {}, {
    outputs: [{ dtype: "float32", shape: [4] }],
  });
  const weights = g.constant(Float32Array.of(1, 2, 3, 4));
  const [loss] = g.node("ReduceSum", [g.node("Mul", [sign, weights])[0]], { keepdims: 0 });
  const [gradient] = differentiate(g, loss, [latent], { straightThrough: new Map([[sign.name, latent]]) });
  g.output("gradient", gradient);
  await using runtime = await openRuntime({ threads: 1 });
  await using session = await runtime.load(encodeModel(g));
  const { gradient: found } = await session.run({
    latent: runtime.tensor("float32", Float32Array.of(-1, 0, 2, -3), [4]),
  });
  assertEquals(Array.from(await found.read() as Float32Array), [1, 2, 3, 4]);
});

Deno.test("differentiate() gives zeros for a value that the loss does not depend on", () => {
  const g = createGraph("independent");
  const x = g.input("x", "float32", [2]);
  const y = g.input("y", "float32", [3]);
  const [loss] = g.node("ReduceSum", [x], { keepdims: 0 });
  assertEquals(differentiate(g, loss, [y])[0].shape, [3]);
});

Deno.test("differentiate() names the operator that it has no rule for", () => {
  const g = createGraph("unknown");
  const x = g.input("x", "float32", [2]);
  const [y] = g.node("Mystery", [x], {}, { outputs: [{ dtype: "float32", shape: [] }] });
  assertThrows(() => differentiate(g, y, [x]), TypeError, "Mystery");
});

Deno.test("differentiate() refuses a loss that is not a scalar", () => {
  const g = createGraph("vector");
  const x = g.input("x", "float32", [2]);
  assertThrows(() => differentiate(g, x, [x]), TypeError, "scalar");
});
