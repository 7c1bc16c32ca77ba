import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { DTYPES } from "../../../kernels/runtime/dtype.ts";
import type { DType, TensorData } from "../../../kernels/runtime/types.ts";
import { identityModel, incrementModel, open, provider } from "./graphs.ts";

/** Six elements of each type, extremes among them; 16-bit floats as raw bits. */
const ELEMENTS: Readonly<Record<DType, TensorData>> = {
  float32: Float32Array.of(0, -0, 1.5, NaN, Infinity, 1e-45),
  float64: Float64Array.of(0, -0, Math.PI, NaN, -Infinity, 5e-324),
  float16: Uint16Array.of(0, 0x8000, 0x3c00, 0x7e00, 0xfc00, 1),
  bfloat16: Uint16Array.of(0, 0x8000, 0x3f80, 0x7fc0, 0xff80, 1),
  int8: Int8Array.of(-128, 127, 0, 1, -1, 42),
  uint8: Uint8Array.of(0, 255, 1, 2, 3, 4),
  int16: Int16Array.of(-32768, 32767, 0, 1, -1, 42),
  uint16: Uint16Array.of(0, 65535, 1, 2, 3, 4),
  int32: Int32Array.of(-(2 ** 31), 2 ** 31 - 1, 0, 1, -1, 42),
  uint32: Uint32Array.of(0, 2 ** 32 - 1, 1, 2, 3, 4),
  int64: BigInt64Array.of(-(2n ** 63n), 2n ** 63n - 1n, 0n, 1n, -1n, 42n),
  uint64: BigUint64Array.of(0n, 2n ** 64n - 1n, 1n, 2n, 3n, 4n),
  bool: Uint8Array.of(0, 1, 1, 0, 1, 0),
  string: ["", "a", "Grüße", "日本語", "👍", "two words"],
};

for (const dtype of DTYPES) {
  Deno.test(`tensor() and run() carry ${dtype} in and out, also empty and scalar`, async () => {
    await using runtime = await open();
    const elements = ELEMENTS[dtype];
    for (const shape of [[6], [2, 3], [1, 1, 6], [0], [2, 0, 3], []]) {
      const count = shape.reduce((product, size) => product * size, 1);
      const data = elements.slice(0, count) as TensorData;
      await using session = await runtime.load(identityModel(dtype, shape.map((_, axis) => `d${axis}`)));
      using x = runtime.tensor(dtype, data, shape);
      assertEquals(await x.read(), data);
      const { y } = await session.run({ x });
      assertEquals([y.dtype, y.shape, y.byteLength], [dtype, shape, x.byteLength]);
      assertEquals(await y.read(), data);
      using target = runtime.empty(dtype, shape);
      const outputs = await session.run({ x }, { into: { y: target } });
      assert(outputs.y === target);
      assertEquals(await target.read(), data);
      y[Symbol.dispose]();
    }
  });
}

Deno.test("run() accepts any size of a symbolic dimension, one after the other", async () => {
  await using runtime = await open();
  await using session = await runtime.load(incrementModel());
  assertEquals(session.inputs, [{ name: "x", dtype: "float32", shape: ["n"] }]);
  for (const size of [1, 1000, 0, 7, 65536]) {
    using x = runtime.tensor("float32", new Float32Array(size).fill(size), [size]);
    const { y } = await session.run({ x });
    assertEquals(y.shape, [size]);
    assert((await y.read() as Float32Array).every((value) => value === size + 1));
    y[Symbol.dispose]();
  }
});

Deno.test("tensor() copies: later changes of the array do not reach the tensor", async () => {
  await using runtime = await open();
  const data = Float32Array.of(1, 2);
  using x = runtime.tensor("float32", data, [2]);
  data.fill(9);
  assertEquals(await x.read(), Float32Array.of(1, 2));
  const bytes = new Uint8Array([9, 9, 1, 2, 3, 9]);
  using view = runtime.tensor("uint8", bytes.subarray(2, 5), [3]);
  assertEquals(await view.read(), Uint8Array.of(1, 2, 3));
});

Deno.test("tensors live on the provider's device, strings on the CPU", async () => {
  await using runtime = await open();
  using numbers = runtime.tensor("float32", Float32Array.of(1), [1]);
  using texts = runtime.tensor("string", ["a"], [1]);
  assertEquals([numbers.device, texts.device], [provider === "webgpu" ? "cpu" : provider, "cpu"]);
});

Deno.test("tensor() and empty() refuse wrong elements, counts, shapes and types", async () => {
  await using runtime = await open();
  assertThrows(() => runtime.tensor("float32", new Float32Array(3), [2]), RangeError, "needs 2 elements");
  assertThrows(() => runtime.tensor("float32", new Float64Array(2), [2]), TypeError, "Float32Array");
  assertThrows(() => runtime.empty("float32", [-1]), RangeError, "at least 0");
  assertThrows(() => runtime.empty("complex64" as DType, [1]), TypeError, "known types");
});

Deno.test("a disposed tensor is refused everywhere, disposing twice is harmless", async () => {
  await using runtime = await open();
  await using session = await runtime.load(incrementModel());
  const x = runtime.tensor("float32", Float32Array.of(1), [1]);
  x[Symbol.dispose]();
  x[Symbol.dispose]();
  await assertRejects(() => x.read(), Error, "disposed");
  const error = await assertRejects(() => session.run({ x }), Error);
  assertStringIncludes(error.message, "disposed");
});

Deno.test({
  name: "freed tensors of some megabytes go back to the system, whatever lies behind them",
  ignore: Deno.build.os !== "linux" || provider !== "cpu",
  async fn() {
    await using runtime = await open();
    const data = new Float32Array(2 ** 21).fill(1), resident = () => Deno.memoryUsage().rss / 2 ** 20;
    // glibc would take the size of what was freed last as the least that gets pages of its own.
    const large = new Float32Array(7 * 2 ** 20);
    runtime.tensor("float32", large, [large.length])[Symbol.dispose]();
    const before = resident();
    const tensors = Array.from({ length: 16 }, () => runtime.tensor("float32", data, [data.length]));
    using _behind = runtime.tensor("float32", data.slice(0, 1000), [1000]);
    assert(resident() > before + 120);
    for (const tensor of tensors) tensor[Symbol.dispose]();
    assert(resident() < before + 16);
  },
});
