/**
 * `deno task bench runtime [--provider cpu|cuda|webgpu]`: what a call costs against onnxruntime-node, whether the event loop
 * lives during runs, what device tensors save, whether anything grows, and on CUDA the rate of large products.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { openLibrary } from "../kernels/runtime/c_api/library.ts";
import { openRuntime } from "../kernels/runtime/open.ts";
import type { Provider, Runtime, Session, Tensor } from "../kernels/runtime/types.ts";
import { encodeModel } from "../pipeline/graph/encode.ts";
import { createGraph } from "../pipeline/graph/graph.ts";
import { matMul } from "../pipeline/graph/ops.ts";
import { slowModel } from "../tests/kernels/runtime/graphs.ts";

const ROUNDS = 15;
const RUNS_A_ROUND = 4000;

/** Measures and prints; each line says what was compared. */
export async function main(args: readonly string[]): Promise<void> {
  const flags = parseArgs([...args], {
    string: ["provider", "cycles", "runs"],
    default: { provider: "cpu", cycles: "1000", runs: "100000" },
  });
  const provider = flags.provider as Provider;
  await using runtime = await openRuntime({ provider, binding: "c-api" });
  const calls = openLibrary().callsThrough === undefined ? "by address" : "through the operator library";
  console.log(
    `onnxruntime ${runtime.version}, ${provider}, called ${calls}, ${navigator.hardwareConcurrency} cores`,
  );
  // First: after thousands of sessions in one process the same products ran at 88 % of this rate on an H100.
  if (provider === "cuda") await products(runtime, 4096, 64);
  else await products(runtime, 1024, 16);
  await callOverhead(runtime);
  await eventLoop(runtime);
  await deviceLoop(runtime);
  await growth(runtime, Number(flags.cycles), Number(flags.runs));
}

/** `y = x + 1`. */
function incrementModel(): Uint8Array {
  const g = createGraph("increment");
  const x = g.input("x", "float32", ["n"]);
  g.output("y", g.node("Add", [x, g.constant(1)])[0]);
  return encodeModel(g);
}

/** `y = x · w · w · …`, `count` products of (size, size) matrices, unrolled. */
function chainModel(size: number, count: number): Uint8Array {
  const g = createGraph("chain");
  let y = g.input("x", "float32", [size, size]);
  const w = g.input("w", "float32", [size, size]);
  for (let step = 0; step < count; step++) y = matMul(g, y, w);
  g.output("y", y);
  return encodeModel(g);
}

async function callOverhead(runtime: Runtime): Promise<void> {
  await using node = await openRuntime({ provider: runtime.provider, binding: "onnxruntime-node" });
  const model = incrementModel();
  const run = async (each: Runtime, session: Session) => {
    const x = each.tensor("float32", new Float32Array(16), [16]);
    const start = performance.now();
    for (let index = 0; index < RUNS_A_ROUND; index++) (await session.run({ x })).y[Symbol.dispose]();
    const elapsed = performance.now() - start;
    x[Symbol.dispose]();
    return 1000 * elapsed / RUNS_A_ROUND;
  };
  await using ours = await runtime.load(model, { threads: 1 });
  await using theirs = await node.load(model, { threads: 1 });
  const times: [number[], number[]] = [[], []];
  for (let round = 0; round < ROUNDS; round++) {
    times[0].push(await run(runtime, ours));
    times[1].push(await run(node, theirs));
  }
  const [a, b] = times.map((list) => list.toSorted((x, y) => x - y));
  const middle = ROUNDS >> 1;
  console.log(
    `call overhead, 16 floats, median (least) of ${ROUNDS} alternating rounds: C API ${a[middle].toFixed(1)} (${
      a[0].toFixed(1)
    }) µs a run, onnxruntime-node ${b[middle].toFixed(1)} (${b[0].toFixed(1)}) µs`,
  );
}

async function eventLoop(runtime: Runtime): Promise<void> {
  await using session = await runtime.load(slowModel(64), { threads: 1 });
  using x = runtime.tensor("float32", new Float32Array(64 * 64).fill(1 / 64), [64, 64]);
  using count = runtime.tensor("int64", BigInt64Array.of(1_000_000_000n), []);
  const ticks: number[] = [];
  const timer = setInterval(() => ticks.push(performance.now()), 5);
  const start = performance.now();
  const signal = AbortSignal.timeout(2000);
  let abortedAt = 0;
  signal.addEventListener("abort", () => abortedAt = performance.now());
  await session.run({ x, count }, { signal }).catch(() => {});
  const end = performance.now();
  clearInterval(timer);
  const gaps = ticks.slice(1).map((tick, index) => tick - ticks[index]).sort((a, b) => a - b);
  console.log(
    `event loop during a run of ${
      ((end - start) / 1000).toFixed(2)
    } s: ${ticks.length} ticks of a 5 ms timer, gaps p50 ${gaps[gaps.length >> 1].toFixed(1)} ms, largest ${
      gaps.at(-1)!.toFixed(1)
    } ms; run ended ${(end - abortedAt).toFixed(1)} ms after its signal`,
  );
}

async function deviceLoop(runtime: Runtime): Promise<void> {
  const elements = 4 << 20;
  await using session = await runtime.load(incrementModel());
  let from: Tensor = runtime.tensor("float32", new Float32Array(elements), [elements]);
  let to: Tensor = runtime.empty("float32", [elements]);
  const resident = await milliseconds(async () => {
    for (let step = 0; step < 100; step++) {
      await session.run({ x: from }, { into: { y: to } });
      [from, to] = [to, from];
    }
    await from.read();
  });
  from[Symbol.dispose]();
  to[Symbol.dispose]();
  let data = new Float32Array(elements);
  const copied = await milliseconds(async () => {
    for (let step = 0; step < 100; step++) {
      using x = runtime.tensor("float32", data, [elements]);
      const { y } = await session.run({ x });
      data = await y.read() as Float32Array<ArrayBuffer>;
      y[Symbol.dispose]();
    }
  });
  console.log(
    `100 runs on 16 MiB: ${resident.toFixed(0)} ms with tensors staying on the device, ${
      copied.toFixed(0)
    } ms with copies (${(copied / resident).toFixed(1)}×)`,
  );
}

async function growth(runtime: Runtime, cycles: number, runs: number): Promise<void> {
  const model = incrementModel();
  const mebibytes = () => Deno.memoryUsage().rss / 2 ** 20;
  const cycle = async (count: number) => {
    for (let index = 0; index < count; index++) {
      await using session = await runtime.load(model, { threads: 1 });
      using x = runtime.tensor("float32", new Float32Array(4096), [4096]);
      (await session.run({ x })).y[Symbol.dispose]();
    }
  };
  await cycle(Math.ceil(cycles / 10));
  let before = mebibytes();
  await cycle(cycles);
  console.log(`${cycles} sessions made and disposed: resident memory ${signed(mebibytes() - before)} MiB`);
  await using session = await runtime.load(model, { threads: 1 });
  using x = runtime.tensor("float32", new Float32Array(4096), [4096]);
  const run = async (count: number) => {
    for (let index = 0; index < count; index++) (await session.run({ x })).y[Symbol.dispose]();
  };
  await run(Math.ceil(runs / 10));
  before = mebibytes();
  const elapsed = await milliseconds(() => run(runs));
  console.log(
    `${runs} runs: resident memory ${signed(mebibytes() - before)} MiB, ${(1000 * elapsed / runs).toFixed(1)} µs each`,
  );
}

async function products(runtime: Runtime, size: number, count: number): Promise<void> {
  for (const tf32 of runtime.provider === "cuda" ? [true, false] : [true]) {
    await using session = await runtime.load(chainModel(size, count), { tf32, optimization: "basic" });
    const matrix = new Float32Array(size * size).fill(1 / size);
    using x = runtime.tensor("float32", matrix, [size, size]);
    using w = runtime.tensor("float32", matrix, [size, size]);
    using y = runtime.empty("float32", [size, size]);
    const run = () => session.run({ x, w }, { into: { y } });
    for (let warm = 0; warm < 3; warm++) await run();
    const times: number[] = [];
    for (let round = 0; round < 7; round++) times.push(await milliseconds(run));
    times.sort((a, b) => a - b);
    const rate = 2 * size ** 3 * count / times[times.length >> 1] / 1e9;
    const mode = runtime.provider === "cuda" ? tf32 ? ", TF32" : ", no TF32" : "";
    console.log(
      `${count} f32 products of ${size}³${mode}, inputs on the device: ${rate.toFixed(2)} TFLOP/s (${
        times[times.length >> 1].toFixed(1)
      } ms, median of 7)`,
    );
  }
}

async function milliseconds(action: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await action();
  return performance.now() - start;
}

function signed(value: number): string {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
}

if (import.meta.main) await main(Deno.args);
