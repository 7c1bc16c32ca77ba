import { assertEquals, assertRejects } from "@std/assert";
import { fileURLToPath } from "node:url";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { findNativeLibrary } from "../../../kernels/runtime/native_library.ts";
import { registerOrtBackend } from "../../../kernels/runtime/ort_backend.ts";
import { OrtError } from "../../../kernels/runtime/c_api/status.ts";
import { doubleModel, identityModel } from "./graphs.ts";

Deno.test("registerOrtBackend() serves ordinary InferenceSession code, also float16", async () => {
  await using _runtime = await registerOrtBackend({ threads: 1 });
  const session = await InferenceSession.create(doubleModel(), { executionProviders: ["dbf"] });
  assertEquals([session.inputNames, session.outputNames], [["x"], ["y"]]);
  const x = new Tensor("float32", Float32Array.of(1, 2), [1, 2]);
  const { y } = await session.run({ x });
  assertEquals([y.dims, y.data], [[1, 2], Float32Array.of(2, 4)]);
  const target = new Tensor("float32", new Float32Array(2), [1, 2]);
  await session.run({ x }, { y: target });
  assertEquals(target.data, Float32Array.of(2, 4));
  await session.release();

  const halves = await InferenceSession.create(identityModel("float16", ["n"]));
  const bits = Uint16Array.of(0x3c00, 0xc000);
  const { y: half } = await halves.run({ x: new Tensor("float16", bits, [2]) });
  assertEquals(Array.from(half.data as unknown as ArrayLike<number>), [1, -2]);
  await halves.release();
  // The failure is dbf's, not onnxruntime-node's: the session did run here.
  await assertRejects(() => InferenceSession.create(Uint8Array.of(1, 2)), OrtError);
});

Deno.test({
  name: "examples/ort_backend runs a model that only dbf's operator library can run",
  ignore: findNativeLibrary() === undefined,
  async fn() {
    // A process of its own: here onnxruntime-node is loaded already.
    const path = fileURLToPath(new URL("../../../examples/ort_backend/main.ts", import.meta.url));
    const args = ["run", "--allow-read", "--allow-env", "--allow-sys", "--allow-ffi", path];
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
    const expected = Array.from({ length: 16 }, (_, row) => 2 * row - 32).join(" ");
    assertEquals(new TextDecoder().decode(stdout).trim(), expected, new TextDecoder().decode(stderr));
  },
});
