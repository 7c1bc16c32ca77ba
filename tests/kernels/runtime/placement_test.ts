import { assert, assertAlmostEquals, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { binaryMatMulFunction, DBF_DOMAIN, DBF_OPSET_VERSION } from "../../../kernels/functions/binary_matmul.ts";
import { packedBytes, packedShape } from "../../../kernels/layout.ts";
import { findNativeLibrary } from "../../../kernels/runtime/native_library.ts";
import { encodeModel } from "../../../pipeline/graph/encode.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { doubleModel, open, provider } from "./graphs.ts";

const built = findNativeLibrary(provider) !== undefined;
const [ROWS, N, K] = [3, 40, 70];

/** `y = BinaryMatMul(x, B, scale)` with its portable body. */
function binaryModel(signs: Uint8Array<ArrayBuffer>): Uint8Array {
  const g = createGraph("binary");
  g.function(binaryMatMulFunction());
  const x = g.input("x", "float32", ["rows", K]);
  const b = g.initializer("B", "uint8", packedShape(N, K), signs);
  const scale = g.initializer("scale", "float32", [N], Float32Array.from({ length: N }, (_, row) => 1 + row / N));
  const [y] = g.node("BinaryMatMul", [x, b, scale], { K, N }, {
    domain: DBF_DOMAIN,
    outputs: [{ dtype: "float32", shape: ["rows", N] }],
  });
  g.output("y", y);
  assertEquals(g.imports.get(DBF_DOMAIN), DBF_OPSET_VERSION);
  return encodeModel(g);
}

/** ONNX Runtime 1.30 records nothing for WebGPU. */
const recorded = provider !== "webgpu";

Deno.test("recordPlacement lists every node with its provider, or none on WebGPU", async () => {
  await using runtime = await open();
  await using session = await runtime.load(doubleModel(), { recordPlacement: true });
  const placed = session.placement?.map(({ operator, provider }) => [operator, provider]);
  assertEquals(placed, recorded ? [["Add", provider]] : []);
  await using silent = await runtime.load(doubleModel());
  assertEquals(silent.placement, undefined);
});

Deno.test("requirePlacement accepts nodes on the session's provider and names operators that are not there", async () => {
  await using runtime = await open();
  if (!recorded) {
    const error = await assertRejects(() => runtime.load(doubleModel(), { requirePlacement: ["Add"] }), Error);
    assertStringIncludes(error.message, "recorded no placements on webgpu");
    return;
  }
  await using session = await runtime.load(doubleModel(), { requirePlacement: ["Add"] });
  assert(session.placement!.length > 0);
  const error = await assertRejects(() => runtime.load(doubleModel(), { requirePlacement: ["MatMul"] }), Error);
  assertStringIncludes(error.message, "Cannot place MatMul");
  assertStringIncludes(error.message, "it has Add");
});

Deno.test({
  name: "BinaryMatMul runs natively where the operator library is built, with the result of its portable body",
  ignore: !built,
  async fn() {
    await using runtime = await open();
    assert(runtime.nativeKernels !== undefined && runtime.nativeKernels.isa !== "unknown");
    const signs = new Uint8Array(packedBytes(N, K));
    // Random bits with the padding kept zero: rows of 16 in blocks, 32 columns a word.
    const words = new Uint32Array(signs.buffer);
    const columnWords = Math.ceil(K / 32);
    for (let row = 0; row < N; row++) {
      for (let word = 0; word < columnWords; word++) {
        const used = Math.min(32, K - 32 * word);
        const bits = Math.imul(row * columnWords + word + 1, 2654435761) >>> 0;
        words[(Math.floor(row / 16) * columnWords + word) * 16 + row % 16] = used === 32
          ? bits
          : (bits & (2 ** used - 1)) >>> 0;
      }
    }
    const model = binaryModel(signs);
    await using native = await runtime.load(model, { requirePlacement: ["BinaryMatMul"] });
    // The portable body's product would be rounded to TF32 on a GPU, the kernels' never is.
    await using portable = await runtime.load(model, { nativeKernels: false, recordPlacement: true, tf32: false });
    assert(!portable.placement!.some((node) => node.operator === "BinaryMatMul"));
    await assertRejects(() => runtime.load(model, { nativeKernels: false, requirePlacement: ["BinaryMatMul"] }));
    using x = runtime.tensor("float32", Float32Array.from({ length: ROWS * K }, (_, i) => Math.sin(i)), [ROWS, K]);
    const first = await native.run({ x });
    const second = await portable.run({ x });
    const values = await first.y.read() as Float32Array;
    (await second.y.read() as Float32Array).forEach((value, index) => assertAlmostEquals(values[index], value, 1e-4));
    for (const { y } of [first, second]) y[Symbol.dispose]();
  },
});
