import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import * as ort from "onnxruntime-node";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { encodeModel } from "../../../pipeline/graph/encode.ts";
import { decodeModel } from "../../../pipeline/graph/decode.ts";
import * as op from "../../../pipeline/graph/ops.ts";
import { gelu, geluTanh, rmsNorm, silu, softcap } from "../../../pipeline/graph/compose.ts";
import type { Dim, Graph, Value } from "../../../pipeline/graph/types.ts";

const X = Float32Array.from({ length: 24 }, (_, index) => Math.sin(index * 1.3) * 2);

/** Runs a graph whose only input is x `[2, 3, 4]` and returns its outputs. */
async function run(g: Graph): Promise<Record<string, ort.Tensor>> {
  const session = await ort.InferenceSession.create(encodeModel(g), { logSeverityLevel: 3 });
  try {
    return await session.run({ x: new ort.Tensor("float32", X, [2, 3, 4]) });
  } finally {
    await session.release();
  }
}

const CASES: Record<string, (g: Graph, x: Value) => Value> = {
  matMul: (g, x) => op.matMul(g, x, op.transpose(g, x, [0, 2, 1])),
  "matMul with broadcast": (g, x) => op.matMul(g, x, g.constant(new Float32Array(8), [4, 2])),
  gemm: (g, x) =>
    op.gemm(g, op.reshape(g, x, [-1, 4]), g.constant(new Float32Array(8).fill(1), [2, 4]), { transB: true }),
  "add of a number": (g, x) => op.add(g, x, 1),
  "sub from a number": (g, x) => op.sub(g, 1, x),
  div: (g, x) => op.div(g, x, op.add(g, op.abs(g, x), 1)),
  pow: (g, x) => op.pow(g, op.abs(g, x), 0.5),
  where: (g, x) => op.where(g, op.greaterOrEqual(g, x, 0), x, 0),
  "max of three": (g, x) => op.max(g, x, 0, op.neg(g, x)),
  clip: (g, x) => op.clip(g, x, -0.5, 0.5),
  "clip above": (g, x) => op.clip(g, x, undefined, 0.5),
  reduceSum: (g, x) => op.reduceSum(g, x, [0, -1], false),
  "reduceSum of all": (g, x) => op.reduceSum(g, x),
  reduceMean: (g, x) => op.reduceMean(g, x, [1]),
  reduceMax: (g, x) => op.reduceMax(g, x, [-1], false),
  argMax: (g, x) => op.argMax(g, x),
  topK: (g, x) => op.topK(g, x, 2)[1],
  softmax: (g, x) => op.softmax(g, x),
  logSoftmax: (g, x) => op.logSoftmax(g, x, 1),
  cumSum: (g, x) => op.cumSum(g, x, 1),
  "unary functions": (g, x) =>
    [op.sign, op.exp, op.sin, op.cos, op.tanh, op.sigmoid, op.erf, op.floor, op.softplus].reduce((y, f) => f(g, y), x),
  gather: (g, x) => op.gather(g, x, op.int64s(g, [2, 0]), 1),
  gatherElements: (g, x) => op.gatherElements(g, x, op.argMax(g, x, -1, true)),
  gatherND: (g, x) => op.gatherND(g, x, g.constant(BigInt64Array.of(0n, 1n, 1n, 2n), [2, 2])),
  scatterElements: (g, x) => op.scatterElements(g, x, op.argMax(g, x, -1, true), op.reduceSum(g, x, [-1]), 2, "add"),
  scatterND: (g, x) =>
    op.scatterND(g, x, g.constant(BigInt64Array.of(1n), [1, 1]), g.constant(new Float32Array(12), [1, 3, 4])),
  concat: (g, x) => op.concat(g, [x, x], 2),
  slice: (g, x) => op.slice(g, x, 2, 1, -1),
  "slice backwards": (g, x) => op.slice(g, x, 1, -1, -(2 ** 31), -1),
  "slice with a step": (g, x) => op.slice(g, x, 2, 0, 4, 3),
  split: (g, x) => op.split(g, x, 2, [1, 3])[1],
  transpose: (g, x) => op.transpose(g, x, [2, 0, 1]),
  reshape: (g, x) => op.reshape(g, x, [0, -1, 2]),
  "reshape to a shape made of shapes": (g, x) =>
    op.reshape(g, op.reshape(g, x, [-1, 4]), op.concat(g, [op.shape(g, x, 0, 2), op.int64s(g, [2, 2])], 0)),
  expand: (g, x) => op.expand(g, op.reduceMax(g, x, [1]), [2, 3, 4]),
  "unsqueeze and squeeze": (g, x) => op.squeeze(g, op.unsqueeze(g, x, [0, 2]), [0]),
  "cast to int32": (g, x) => op.cast(g, x, "int32"),
  "range over a dimension": (g, x) =>
    op.range(g, op.int64(g, 0), op.squeeze(g, op.shape(g, x, 1, 2), [0]), op.int64(g, 1)),
  "trilu lower": (g, x) => op.trilu(g, x, { upper: false, diagonal: 1 }),
  tile: (g, x) => op.tile(g, x, [1, 2, 1]),
  pad: (g, x) => op.pad(g, x, [0, 0, 1, 0, 0, 2]),
  fill: (g, x) => op.fill(g, op.shape(g, x), 3),
  rmsNorm: (g, x) => rmsNorm(g, x, g.constant(Float32Array.of(1, 2, 3, 4)), 1e-5),
  "rmsNorm in f16": (g, x) =>
    rmsNorm(g, op.cast(g, x, "float16"), g.constant(new Uint16Array(4), [4], "float16"), 1e-5),
  activations: (g, x) => [silu, gelu, geluTanh].reduce((y, f) => f(g, y), softcap(g, x, 3)),
  "bit operations": (g, x) =>
    op.bitShift(g, op.bitwiseAnd(g, op.cast(g, op.abs(g, op.mul(g, x, 100)), "uint32"), 0xff), 2, "RIGHT"),
};

for (const [name, build] of Object.entries(CASES)) {
  Deno.test(`${name} gives the type and shape that inference says`, async () => {
    const g = createGraph("case");
    const y = g.output("y", build(g, g.input("x", "float32", [2, 3, 4])));
    const result = (await run(g)).y;
    assertEquals([result.type, ...result.dims], [y.dtype, ...y.shape]);

    // The same graph with names for the first two dimensions: numbers that inference still knows are right.
    const symbolic = createGraph("symbolic");
    const z = build(symbolic, symbolic.input("x", "float32", ["batch", "time", 4]));
    assertEquals(z.shape.length, y.shape.length);
    z.shape.forEach((dim: Dim, axis) => typeof dim === "number" && dim !== 1 && assertEquals(dim, y.shape[axis]));
  });
}

Deno.test("reshape follows names through products and shapes", () => {
  const g = createGraph("names");
  const x = g.input("x", "float32", ["batch", "time", 64]);
  const flat = op.reshape(g, x, [-1, 64]);
  assertEquals(flat.shape, ["batch*time", 64]);
  const heads = op.reshape(g, flat, op.concat(g, [op.shape(g, x, 0, 2), op.int64s(g, [4, 16])], 0));
  assertEquals(heads.shape, ["batch", "time", 4, 16]);
  assertEquals(op.reshape(g, x, [0, 0, 4, -1]).shape, ["batch", "time", 4, 16]);
  assertEquals(op.concat(g, [x, g.input("past", "float32", ["batch", "past", 64])], 1).shape, [
    "batch",
    "time + past",
    64,
  ]);
});

Deno.test("randomNormal gives the same numbers in every session", async () => {
  const g = createGraph("random");
  g.output("y", op.randomNormal(g, [5], 7));
  g.output("z", op.identity(g, g.input("x", "float32", [2, 3, 4])));
  assertEquals((await run(g)).y.data, (await run(g)).y.data);
});

Deno.test("constant stores equal scalars once", () => {
  const g = createGraph("shared");
  const x = g.input("x", "float32", ["n"]);
  op.add(g, op.add(g, x, 2), 2);
  assertEquals(g.constants.size, 1);
});

Deno.test("scope prefixes the names of nodes", () => {
  const g = createGraph("scoped");
  const x = g.input("x", "float32", ["n"]);
  const y = g.scope("block", () => g.scope("mlp", () => op.neg(g, x)));
  assertEquals(y.name.startsWith("block/mlp/Neg"), true);
  assertEquals(op.neg(g, y).name.startsWith("Neg"), true);
});

Deno.test("shapes that cannot meet are refused while the graph is built", () => {
  const g = createGraph("refused");
  const x = g.input("x", "float32", [2, 3]);
  assertThrows(() => op.add(g, x, g.constant(new Float32Array(2), [2])), RangeError, "broadcast");
  assertThrows(() => op.matMul(g, x, x), RangeError, "multiply");
  assertThrows(() => op.reshape(g, x, [4, 2]), RangeError, "reshape");
  assertThrows(() => op.add(g, x, op.cast(g, x, "float64")), TypeError, "different types");
  assertThrows(() => op.softmax(createGraph("other"), x), RangeError, "another graph");
  assertThrows(() => g.node("Mystery", [x], {}, { domain: "ai.none" }), TypeError, "state its outputs");
  assertThrows(() => g.input("x", "float32", []), RangeError, "two values");
});

Deno.test("scan, loop and ifElse run their subgraphs with values of the outer graph", async () => {
  const g = createGraph("outer");
  const x = g.input("x", "float32", [2, 3, 4]);
  const two = g.constant(2);
  const step = createGraph("step", { outer: g });
  const state = step.input("step/state", "float32", [3, 4]), part = step.input("step/part", "float32", [3, 4]);
  step.output("step/next", op.add(step, op.mul(step, state, two), part));
  const [scanned] = op.scan(g, [op.fill(g, [3, 4], 0)], [x], step);
  g.output("scanned", scanned);

  const body = createGraph("body", { outer: g });
  body.input("body/i", "int64", []);
  const goOn = body.input("body/go", "bool", []), carried = body.input("body/carried", "float32", [2, 3, 4]);
  body.output("body/again", op.identity(body, goOn));
  body.output("body/next", op.mul(body, carried, two));
  g.output("looped", op.loop(g, op.int64(g, 3), [x], body)[0]);

  const then = createGraph("then", { outer: g }), otherwise = createGraph("otherwise", { outer: g });
  then.output("then/y", op.neg(then, x));
  otherwise.output("otherwise/y", op.abs(otherwise, x));
  g.output(
    "chosen",
    op.ifElse(g, op.greater(g, op.squeeze(g, op.reduceSum(g, x), [0, 1, 2]), 1e6), then, otherwise)[0],
  );

  const { scanned: a, looped, chosen } = await run(g);
  for (let index = 0; index < 12; index++) {
    assertAlmostEquals(Number(a.data[index]), 2 * X[index] + X[12 + index], 1e-5);
  }
  for (let index = 0; index < 24; index++) {
    assertAlmostEquals(Number(looped.data[index]), 8 * X[index], 1e-5);
    assertEquals(chosen.data[index], Math.abs(X[index]));
  }
});

Deno.test("function bodies travel with the model and stock runtimes run them", async () => {
  const body = createGraph("ScaleBody");
  const x = body.input("X", "float32", ["n"]), scale = body.input("S", "float32", []);
  const [count] = body.node("Constant", [], { value_int: { reference: "times", type: "int" } }, {
    outputs: [{ dtype: "int64", shape: [] }],
  });
  body.output("Y", op.mul(body, op.add(body, op.mul(body, x, scale), 1), op.cast(body, count, "float32")));

  const g = createGraph("calls");
  g.function({ domain: "ai.test", name: "Scale", attributes: ["times"], body });
  const input = g.input("x", "float32", [2, 3, 4]);
  const [y] = g.node("Scale", [input, g.constant(3)], { times: 2 }, {
    domain: "ai.test",
    outputs: [{ dtype: "float32", shape: input.shape }],
  });
  g.output("y", y);
  const result = (await run(g)).y;
  X.forEach((value, index) => assertAlmostEquals(Number(result.data[index]), (value * 3 + 1) * 2, 1e-5));
  const model = decodeModel(encodeModel(g));
  assertEquals(model.functions.map((each) => [each.domain, each.name]), [["ai.test", "Scale"]]);
  assertEquals(model.opsetImport.map((each) => [each.domain, Number(each.version)]), [["", 21], ["ai.test", 1]]);
});

Deno.test("encodeModel() writes values under the names of outputs, without Identity nodes, also where subgraphs use them", async () => {
  const g = createGraph("renamed");
  const x = g.input("x", "float32", [2, 3, 4]);
  const shared = op.mul(g, x, 2);
  const then = createGraph("then", { outer: g }), otherwise = createGraph("otherwise", { outer: g });
  then.output("then/y", op.add(then, shared, 1));
  otherwise.output("otherwise/y", op.add(otherwise, shared, 2));
  const [chosen] = op.ifElse(g, op.greater(g, op.squeeze(g, op.reduceMax(g, shared), [0, 1, 2]), 0), then, otherwise);
  g.output("chosen", chosen);
  g.output("first", shared);
  g.output("second", shared);
  g.output("fed", x);
  const nodes = decodeModel(encodeModel(g)).graph!.node;
  assertEquals(nodes.filter(({ opType }) => opType === "Identity").map(({ output }) => output[0]), ["second", "fed"]);
  const results = await run(g);
  X.forEach((value, index) => {
    assertEquals(results.first.data[index], 2 * value);
    assertEquals(results.second.data[index], 2 * value);
    assertEquals(results.fed.data[index], value);
    assertAlmostEquals(Number(results.chosen.data[index]), 2 * value + 1, 1e-5);
  });
});

Deno.test("decodeModel() refuses other bytes", () => {
  assertThrows(() => decodeModel(Uint8Array.of(255, 255, 255, 255)), TypeError, "ONNX");
  assertThrows(() => decodeModel(new Uint8Array(0)), TypeError, "no graph");
});
