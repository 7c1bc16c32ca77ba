/**
 * `deno task bench kernels`: time of one linear layer as ONNX Runtime runs it, by our operators and by its own, in one run.
 *
 * Every contender cycles over distinct layers whose weights total more than the last-level cache, as a model does. The
 * contenders take turns, and ratios are medians over turns, so that other work on the machine hits all of them alike. Every
 * turn begins with an untimed pass: ONNX Runtime's threads spin for about a millisecond after a session's run.
 *
 *   deno task bench kernels                       4096 x 4096 and 4096 x 14336, 1 and 128 rows
 *   deno task bench kernels --sizes 8192x8192 --rows 1 --turns 30 --threads 1
 *   deno task bench kernels --fuzz 10000          the fuzz of tests/kernels at full length
 *   deno task bench kernels --provider cuda       see kernels_cuda.ts
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { fileURLToPath } from "node:url";
import { buildKernels } from "../kernels/native/build.ts";
import { openRuntime } from "../kernels/runtime/open.ts";
import type { Runtime, Session, Tensor } from "../kernels/runtime/types.ts";
import {
  type Contender,
  denseMatMul,
  doubleBinary,
  type LayerShape,
  layersModel,
  matMulNBits,
} from "./kernels_graphs.ts";

/** Weights that a contender cycles over: more than the 32 MiB of a last-level cache. */
const CYCLED_BYTES = 72 << 20;
/** Contender that the others are compared with. */
const BASELINE = "MatMulNBits 4-bit, block 32";

const CONTENDERS: readonly Contender[] = [
  doubleBinary(1, "exact"),
  doubleBinary(1, "fast"),
  doubleBinary(2, "exact"),
  doubleBinary(2, "fast"),
  matMulNBits(4, 32),
  matMulNBits(4, 128),
  matMulNBits(2, 32),
  matMulNBits(2, 128),
  denseMatMul,
];

/** A contender, loaded. */
interface Loaded {
  readonly contender: Contender;
  readonly session: Session;
  readonly copies: number;
  readonly feeds: Readonly<Record<string, Tensor>>;
  readonly outputs: Readonly<Record<string, Tensor>>;
  /** Microseconds a layer, one entry a turn. */
  readonly times: number[];
}

async function load(runtime: Runtime, contender: Contender, shape: LayerShape, threads?: number): Promise<Loaded> {
  const copies = Math.max(
    shape.rows > 8 ? 1 : 2,
    Math.ceil(CYCLED_BYTES / contender.bytes(shape) / (shape.rows > 8 ? 8 : 1)),
  );
  const session = await runtime.load(layersModel(contender, shape, copies), {
    name: contender.name,
    threads,
    accuracy: contender.accuracy,
  });
  const values = Float32Array.from({ length: shape.rows * shape.cols }, (_, i) => Math.sin(i * 12.9898) * 2);
  const x = runtime.tensor("float32", values, [shape.rows, shape.cols]);
  const feeds: Record<string, Tensor> = {}, outputs: Record<string, Tensor> = {};
  const y = Array.from({ length: copies }, () => runtime.empty("float32", [shape.rows, shape.outputs]));
  for (let i = 0; i < copies; i++) [feeds[`x${i}`], outputs[`y${i}`]] = [x, y[i]];
  return { contender, session, copies, feeds, outputs, times: [] };
}

/** Times one pass, after an untimed one: until it ends, the threads of the contender before still spin for work. */
async function turn({ session, feeds, outputs, copies, times }: Loaded): Promise<void> {
  await session.run(feeds, { into: outputs });
  const started = performance.now();
  await session.run(feeds, { into: outputs });
  times.push((performance.now() - started) * 1000 / copies);
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

/** Compiles and runs the bandwidth probe; GB/s. */
async function readBandwidth(threads: number): Promise<number> {
  const directory = await Deno.makeTempDir({ prefix: "dbf-bench-" });
  try {
    const program = `${directory}/probe`;
    const source = fileURLToPath(new URL("read_bandwidth.cc", import.meta.url));
    await new Deno.Command("g++", { args: ["-std=c++17", "-O3", "-march=native", "-pthread", source, "-o", program] })
      .output();
    const { stdout } = await new Deno.Command(program, { args: [String(threads)] }).output();
    return Number(new TextDecoder().decode(stdout));
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

async function compare(runtime: Runtime, shape: LayerShape, turns: number, threads?: number): Promise<void> {
  const loaded: Loaded[] = [];
  for (const contender of CONTENDERS) loaded.push(await load(runtime, contender, shape, threads));
  for (let i = -2; i < turns; i++) {
    for (const one of loaded) {
      await turn(one);
      if (i < 0) one.times.length = 0;
    }
  }
  const baseline = loaded.find(({ contender }) => contender.name === BASELINE)!;
  console.log(`\n${shape.rows} rows, ${shape.cols} -> ${shape.outputs}: median of ${turns} turns`);
  console.log(`${"".padEnd(30)}${"us/layer".padStart(10)}${"GB/s".padStart(8)}${"speed / 4-bit".padStart(15)}`);
  for (const { contender, times } of loaded) {
    const microseconds = median(times);
    const ratio = median(times.map((time, i) => baseline.times[i] / time));
    console.log(
      contender.name.padEnd(30) + microseconds.toFixed(0).padStart(10) +
        (contender.bytes(shape) / microseconds / 1000).toFixed(1).padStart(8) + ratio.toFixed(2).padStart(15),
    );
  }
  for (const { session, feeds, outputs } of loaded) {
    for (const tensor of [...Object.values(feeds), ...Object.values(outputs)]) tensor[Symbol.dispose]();
    await session[Symbol.asyncDispose]();
  }
}

async function fuzz(cases: string, seed: string): Promise<void> {
  const program = fileURLToPath(new URL("../tests/kernels/native/driver.cc", import.meta.url));
  const directory = await Deno.makeTempDir({ prefix: "dbf-fuzz-" });
  try {
    const { path } = await buildKernels({ program, directory });
    const { code } = await new Deno.Command(path, { args: [cases, seed], stdout: "inherit", stderr: "inherit" })
      .output();
    Deno.exitCode = code;
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

/** Runs the bench with the arguments after its name. */
export async function main(args: readonly string[]): Promise<void> {
  const flags = parseArgs([...args], { string: ["sizes", "rows", "turns", "threads", "fuzz", "seed", "provider"] });
  if (flags.provider === "cuda") return await (await import("./kernels_cuda.ts")).main(args);
  if (flags.fuzz !== undefined) return await fuzz(flags.fuzz, flags.seed ?? "1");
  const threads = flags.threads === undefined ? undefined : Number(flags.threads);
  await buildKernels();
  await using runtime = await openRuntime();
  if (runtime.nativeKernels === undefined) {
    throw new Error("Cannot bench the kernels as the operator library was not found");
  }
  const cores = threads ?? navigator.hardwareConcurrency;
  console.log(`onnxruntime ${runtime.version}, kernels ${runtime.nativeKernels.isa}, ${cores} threads`);
  console.log(`read bandwidth: ${(await readBandwidth(cores)).toFixed(1)} GB/s`);
  for (const size of (flags.sizes ?? "4096x4096,14336x4096").split(",")) {
    const [outputs, cols] = size.split("x").map(Number);
    for (const rows of (flags.rows ?? "1,128").split(",").map(Number)) {
      await compare(runtime, { rows, outputs, cols }, Number(flags.turns ?? (rows > 8 ? 5 : 15)), threads);
    }
  }
}

if (import.meta.main) await main(Deno.args);
