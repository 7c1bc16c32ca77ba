import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { packSigns } from "../../kernels/layout.ts";
import { findNativeLibrary } from "../../kernels/runtime/native_library.ts";
import { openRuntime } from "../../kernels/runtime/open.ts";
import type { SignMatrix } from "../../pipeline/stream/stage.ts";
import { encodeModel } from "../../pipeline/graph/encode.ts";
import { createGraph } from "../../pipeline/graph/graph.ts";
import { binaryMatMulFunction } from "../../kernels/functions/binary_matmul.ts";

const library = findNativeLibrary();

const SYMBOLS = {
  dbf_isas: { parameters: [], result: "pointer" },
  dbf_binary_matmul: {
    parameters: ["buffer", "buffer", "buffer", "buffer", "buffer", "i64", "i64", "i64", "i32", "i32"],
    result: "i32",
  },
} as const;

function random(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

function randomSigns(rows: number, cols: number, next: () => number): SignMatrix {
  const words = Uint32Array.from({ length: rows * Math.ceil(cols / 32) }, () => next() * 2 ** 32);
  return { rows, cols, words };
}

function randomFloats(length: number, next: () => number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length }, () => 4 * next() - 2);
}

/** y (rows, N) in f64, and what rounding may cost: f32, or int8 sums of 4 activations with a scale a word. */
function twin(x: Float32Array, signs: SignMatrix, scale: Float32Array, rows: number, fast: boolean) {
  const { rows: N, cols: K, words } = signs, width = Math.ceil(K / 32);
  const y = new Float64Array(rows * N), bound = new Float64Array(rows * N);
  for (let row = 0; row < rows; row++) {
    const at = (column: number) => column < K ? x[row * K + column] : 0;
    let quantized = 0, absolute = 0;
    for (let word = 0; word < width; word++) {
      let largest = 0;
      for (let group = 0; group < 8; group++) {
        let sum = 0;
        for (let j = 0; j < 4; j++) sum += Math.abs(at(32 * word + 4 * group + j));
        largest = Math.max(largest, sum);
        absolute += sum;
      }
      quantized += 4 * largest / 127;
    }
    for (let n = 0; n < N; n++) {
      let sum = 0;
      for (let k = 0; k < K; k++) sum += (words[n * width + (k >> 5)] >>> (k & 31) & 1 ? 1 : -1) * at(k);
      y[row * N + n] = sum * scale[n];
      bound[row * N + n] = Math.abs(scale[n]) * (2 ** -24 * (K / 4 + 8) * absolute + (fast ? 1.001 * quantized : 0)) +
        1e-7;
    }
  }
  return { y, bound };
}

function assertWithin(actual: ArrayLike<number>, { y, bound }: ReturnType<typeof twin>, what: string): void {
  assertEquals(actual.length, y.length, what);
  for (let i = 0; i < y.length; i++) {
    const error = Math.abs(actual[i] - y[i]);
    assert(
      error <= bound[i] + 1.2e-7 * Math.abs(y[i]),
      `${what}: [${i}] ${actual[i]} instead of ${y[i]} +- ${bound[i]}`,
    );
  }
}

Deno.test({
  name: "dbf_binary_matmul() equals an f64 twin on every instruction set, exact and fast within its bound",
  ignore: library === undefined,
  fn() {
    const native = Deno.dlopen(library!.path, SYMBOLS);
    const isas = Deno.UnsafePointerView.getCString(native.symbols.dbf_isas()!).split(",");
    assertEquals(isas[0], "scalar");
    assert(isas.includes(library!.isa), `${library!.isa} is one of ${isas}`);
    const sizes = fc.record({
      rows: fc.integer({ min: 0, max: 24 }),
      N: fc.integer({ min: 1, max: 100 }),
      K: fc.integer({ min: 1, max: 200 }),
      seed: fc.nat(),
    });
    fc.assert(
      fc.property(sizes, ({ rows, N, K, seed }) => {
        const next = random(seed);
        const signs = randomSigns(N, K, next), packed = packSigns(signs);
        const x = randomFloats(rows * K, next), scale = randomFloats(N, next);
        for (const isa of isas) {
          for (const fast of [false, true]) {
            const y = new Float32Array(rows * N).fill(NaN);
            const name = new TextEncoder().encode(isa + "\0");
            const code = native.symbols.dbf_binary_matmul(
              name,
              x,
              packed,
              scale,
              y,
              BigInt(rows),
              BigInt(N),
              BigInt(K),
              0,
              Number(fast),
            );
            assertEquals(code, 0);
            assertWithin(y, twin(x, signs, scale, rows, fast), `${isa} ${fast ? "fast" : "exact"} ${rows}x${N}x${K}`);
          }
        }
      }),
      { numRuns: 30 },
    );
    const bytes = new Uint8Array(64), name = new TextEncoder().encode("mmx\0");
    assertEquals(
      native.symbols.dbf_binary_matmul(name, bytes, bytes, bytes, bytes, 1n, 1n, 1n, 0, 0),
      1,
      "unknown isa",
    );
    assertEquals(native.symbols.dbf_binary_matmul(null, bytes, bytes, bytes, bytes, 1n, 0n, 1n, 0, 0), 2, "no outputs");
    native.close();
  },
});

/** A model of one node; what is packed and what the attributes say may differ, to be wrong on purpose. */
function model(signs: SignMatrix, scale: Float32Array, options: { N?: number; K?: number; rank?: "unknown" } = {}) {
  const g = createGraph("one");
  const { N = signs.rows, K = signs.cols } = options;
  const packed = packSigns(signs);
  const x = g.input("x", "float32", ["batch", "tokens", options.rank === "unknown" ? "width" : signs.cols]);
  const B = g.initializer("B", "uint8", [Math.ceil(signs.rows / 16), Math.ceil(signs.cols / 32), 16, 4], packed);
  const s = g.initializer("s", "float32", [scale.length], scale);
  g.function(binaryMatMulFunction());
  const outputs = [{ dtype: "float32" as const, shape: ["batch", "tokens", "outputs"] }];
  g.output("y", g.node("BinaryMatMul", [x, B, s], { K, N }, { domain: "ai.dbf", outputs })[0]);
  return encodeModel(g);
}

Deno.test({
  name: "ai.dbf::BinaryMatMul runs natively where its library is, equal to the portable body, for any batch",
  ignore: library === undefined,
  async fn() {
    await using runtime = await openRuntime({ binding: "c-api", threads: 2 });
    assertEquals(runtime.nativeKernels?.path, library!.path);
    const next = random(5), N = 83, K = 77;
    const signs = randomSigns(N, K, next), scale = randomFloats(N, next);
    const bytes = model(signs, scale);
    await using native = await runtime.load(bytes, { requirePlacement: ["BinaryMatMul"], recordPlacement: true });
    await using portable = await runtime.load(bytes, { nativeKernels: false });
    assert(native.placement?.some(({ domain, operator }) => domain === "ai.dbf" && operator === "BinaryMatMul"));
    for (const [batch, tokens] of [[1, 1], [2, 3], [1, 8], [1, 9], [3, 70], [0, 5], [1, 0]]) {
      const data = randomFloats(batch * tokens * K, next);
      using x = runtime.tensor("float32", data, [batch, tokens, K]);
      const expected = twin(data, signs, scale, batch * tokens, false);
      for (const [name, session] of [["native", native], ["portable", portable]] as const) {
        const { y } = await session.run({ x });
        assertEquals(y.shape, [batch, tokens, N]);
        assertWithin(await y.read() as Float32Array, expected, `${name} ${batch}x${tokens}`);
        y[Symbol.dispose]();
      }
    }
  },
});

Deno.test({
  name: "ai.dbf::BinaryMatMul follows DBF_ACCURACY and refuses a value that it does not know",
  ignore: library === undefined,
  async fn() {
    await using runtime = await openRuntime({ binding: "c-api", threads: 2 });
    const next = random(6), N = 40, K = 500;
    const signs = randomSigns(N, K, next), scale = randomFloats(N, next), data = randomFloats(3 * K, next);
    const before = Deno.env.get("DBF_ACCURACY");
    try {
      Deno.env.set("DBF_ACCURACY", "fast");
      await using session = await runtime.load(model(signs, scale));
      using x = runtime.tensor("float32", data, [1, 3, K]);
      const { y } = await session.run({ x });
      const found = await y.read() as Float32Array, exact = twin(data, signs, scale, 3, false);
      y[Symbol.dispose]();
      assertWithin(found, twin(data, signs, scale, 3, true), "fast");
      assert(found.some((value, i) => Math.abs(value - exact.y[i]) > exact.bound[i]), "fast is not exact");
      Deno.env.set("DBF_ACCURACY", "quick");
      await assertRejects(() => runtime.load(model(signs, scale)), Error, "exact or fast");
    } finally {
      if (before === undefined) Deno.env.delete("DBF_ACCURACY");
      else Deno.env.set("DBF_ACCURACY", before);
    }
  },
});

Deno.test({
  name: "ai.dbf::BinaryMatMul turns wrong shapes and attributes into errors",
  ignore: library === undefined,
  async fn() {
    await using runtime = await openRuntime({ binding: "c-api", threads: 2 });
    const next = random(7), signs = randomSigns(64, 64, next), scale = randomFloats(64, next);
    for (const options of [{ N: -1 }, { N: 0 }, { K: 2 ** 40 }]) {
      await assertRejects(() => runtime.load(model(signs, scale, options)), Error, "N and K");
    }
    using x = runtime.tensor("float32", randomFloats(64, next), [1, 1, 64]);
    using narrow = runtime.tensor("float32", randomFloats(63, next), [1, 1, 63]);
    for (
      const [bytes, feed, message] of [
        [model(signs, scale, { N: 128 }), x, "B must be uint8 [8,2,16,4]"],
        [model(signs, scale, { K: 65 }), x, "last dimension of X must be K=65"],
        [model(signs, scale.subarray(0, 10)), x, "out_scale"],
        [model(signs, scale, { rank: "unknown" }), narrow, "last dimension of X must be K=64"],
      ] as const
    ) {
      await using session = await runtime.load(bytes);
      await assertRejects(() => session.run({ x: feed }), Error, message);
    }
  },
});
