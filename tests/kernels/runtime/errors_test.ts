import { assertEquals, assertInstanceOf, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { environment } from "../../../kernels/runtime/c_api/environment.ts";
import { OrtError } from "../../../kernels/runtime/c_api/status.ts";
import { withSessionOptions } from "../../../kernels/runtime/c_api/session_options.ts";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import type { Provider, RuntimeOptions, SessionOptions } from "../../../kernels/runtime/types.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { encodeModel } from "../../../pipeline/graph/encode.ts";
import { identityModel, incrementModel, open, provider } from "./graphs.ts";

/** `y = a · b` of dynamic shapes. */
function productModel(): Uint8Array {
  const g = createGraph("product");
  const a = g.input("a", "float32", ["n", "k"]);
  const b = g.input("b", "float32", ["j", "m"]);
  g.output("y", g.node("MatMul", [a, b], {}, { outputs: [{ dtype: "float32", shape: ["n", "m"] }] })[0]);
  return encodeModel(g);
}

Deno.test("load() rejects with ONNX Runtime's text: no protobuf, no file, unknown operator, wrong types", async () => {
  await using runtime = await open();
  const protobuf = await assertRejects(() => runtime.load(Uint8Array.of(1, 2, 3), { name: "junk" }), OrtError);
  assertEquals(protobuf.code, "INVALID_PROTOBUF");
  assertMatch(protobuf.message, /Cannot load junk: ONNX Runtime says INVALID_PROTOBUF: .*parsing failed/s);
  const file = await assertRejects(() => runtime.load("/nowhere/model.onnx"), OrtError);
  assertMatch(file.message, /\/nowhere\/model\.onnx.*doesn't exist/s);
  const g = createGraph("unknown");
  const x = g.input("x", "float32", [1]);
  const outputs = [{ dtype: "float32", shape: [1] }] as const;
  g.output("y", g.node("Nonsense", [x], {}, { outputs })[0]);
  assertMatch((await assertRejects(() => runtime.load(encodeModel(g)), OrtError)).message, /Nonsense/);
  await assertRejects(() => runtime.load(new Uint8Array()), TypeError, "0 bytes");
  const options = { optimization: "most" } as unknown as SessionOptions;
  await assertRejects(() => runtime.load(incrementModel(), options), TypeError, "disabled, basic, extended, all");
  await assertRejects(() => runtime.load(incrementModel(), { threads: 0 }), RangeError, "at least 1");
});

Deno.test("run() rejects with ONNX Runtime's text, and the session works on", async () => {
  await using runtime = await open();
  await using session = await runtime.load(productModel(), { name: "product" });
  using a = runtime.tensor("float32", new Float32Array(6), [2, 3]);
  using b = runtime.tensor("float32", new Float32Array(8), [4, 2]);
  const error = await assertRejects(() => session.run({ a, b }), OrtError);
  assertMatch(error.message, /Cannot run product: ONNX Runtime says .*MatMul/s);
  using small = runtime.empty("float32", [1, 1]);
  using c = runtime.tensor("float32", new Float32Array(6), [3, 2]);
  const misfit = await assertRejects(() => session.run({ a, b: c }, { into: { y: small } }), OrtError);
  assertMatch(misfit.message, /shape|size mismatch/);
  const { y } = await session.run({ a, b: c });
  assertEquals(y.shape, [2, 2]);
  y[Symbol.dispose]();
});

Deno.test("run() refuses feeds and outputs that do not fit, by name", async () => {
  await using runtime = await open();
  await using other = await openRuntime({ binding: "onnxruntime-node" });
  await using session = await runtime.load(incrementModel(), { name: "increment" });
  using x = runtime.tensor("float32", Float32Array.of(1), [1]);
  using integers = runtime.tensor("int32", Int32Array.of(1), [1]);
  using matrix = runtime.empty("float32", [1, 1]);
  using foreign = other.tensor("float32", Float32Array.of(1), [1]);
  await assertRejects(() => session.run({}), TypeError, '"x" is not fed');
  await assertRejects(() => session.run({ x, z: x }), TypeError, 'feed "z"');
  await assertRejects(() => session.run({ x: integers }), TypeError, "must be float32, current value is int32");
  await assertRejects(() => session.run({ x: matrix }), TypeError, "must have shape [n]");
  await assertRejects(() => session.run({ x: foreign }), TypeError, "another runtime");
  await assertRejects(() => session.run({ x }, { outputs: ["z"] }), TypeError, 'output "z"');
  await assertRejects(() => session.run({ x }, { into: { y: x } }), TypeError, "same run is fed");
});

Deno.test("openRuntime() names what is unknown or missing", async () => {
  await assertRejects(() => openRuntime({ provider: "tpu" as Provider }), TypeError, "cpu, cuda, webgpu");
  const binding = { binding: "wasm" } as unknown as RuntimeOptions;
  await assertRejects(() => openRuntime(binding), TypeError, "auto, c-api, onnxruntime-node");
});

Deno.test({
  name: "openRuntime() names the files of the CUDA provider that are missing",
  ignore: provider === "cuda",
  async fn() {
    const error = await assertRejects(() => openRuntime({ provider: "cuda", binding: "c-api" }), Error);
    assertMatch(error.message, /libonnxruntime_providers_cuda\.so.* missing|Cannot .*cuda/is);
  },
});

Deno.test("an operator library that does not exist is an error of its registration", async () => {
  const nativeLibrary = { path: "/nowhere/libdbf_ops.so", isa: "unknown", operators: [] };
  const defaults = { provider: "cpu", device: 0, threads: 1, arenaBytes: undefined, nativeLibrary } as const;
  const error = await assertRejects(
    () => withSessionOptions(environment(), defaults, "a graph", {}, () => {}),
    OrtError,
  );
  assertMatch(
    error.message,
    /Cannot register the operators of \/nowhere\/libdbf_ops\.so: .*cannot open shared object/s,
  );
});

Deno.test({
  name: "arenaBytes bounds what sessions allocate and is refused when another runtime bounds it differently",
  ignore: provider !== "cpu",
  async fn() {
    await assertRejects(() => open({ arenaBytes: -1 }), RangeError, "positive integer");
    await using runtime = await open({ arenaBytes: 16 * 2 ** 20 });
    await assertRejects(() => open({ arenaBytes: 2 ** 30 }), RangeError, "bounds it to 16777216");
    await using session = await runtime.load(incrementModel());
    using small = runtime.tensor("float32", new Float32Array(1000), [1000]);
    (await session.run({ x: small })).y[Symbol.dispose]();
    using large = runtime.empty("float32", [8 * 2 ** 20]);
    const error = await assertRejects(() => session.run({ x: large }), OrtError);
    assertMatch(error.message, /Available memory of|Failed to allocate/);
  },
});

Deno.test("OrtError carries ONNX Runtime's code", async () => {
  await using runtime = await open();
  const error = await assertRejects(() => runtime.load("/nowhere/model.onnx"), OrtError);
  assertInstanceOf(error, Error);
  assertEquals([error.name, error.code], ["OrtError", "NO_SUCHFILE"]);
  assertThrows(() => runtime.empty("float32", [2 ** 50]), Error);
  await using session = await runtime.load(identityModel("float32", ["n"]));
  assertEquals(session.placement, undefined);
});
