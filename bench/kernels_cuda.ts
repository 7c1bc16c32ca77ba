/**
 * `deno task bench kernels --provider cuda`: one linear layer in float16 as ONNX Runtime's CUDA provider runs it, by our operators
 * and by its own product (cuBLAS), in one run. `--peer-python` (a Python with torch and a GPU) then runs
 * `bench/peers/kernels_cuda.py`: the same kernels without ONNX Runtime, which has one stream, in a chain and several layers at once.
 *
 * Decoding cycles over distinct layers whose weights total more than the GPU's L2; the rate of a large elementwise operator stands
 * for the copy rate. Runs are recorded CUDA graphs, as the launches of the host would take longer than the layers.
 *
 *   deno task bench kernels --provider cuda                       the three shapes; 1, 4, 16, 512 and 2048 rows
 *   deno task bench kernels --provider cuda --sizes 4096x4096 --rows 1 --turns 30
 *   deno task bench kernels --provider cuda --peer-python python3
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { buildCudaKernels, findNvcc } from "../kernels/native/cuda/build.ts";
import { packedBytes, packedShape } from "../kernels/layout.ts";
import { openRuntime } from "../kernels/runtime/open.ts";
import type { Provider, Runtime, Session, Tensor } from "../kernels/runtime/types.ts";
import { encodeModel } from "../pipeline/graph/encode.ts";
import { createGraph } from "../pipeline/graph/graph.ts";
import { matMul, mul, neg, sum } from "../pipeline/graph/ops.ts";
import type { Graph, Value } from "../pipeline/graph/types.ts";
import { binaryMatMul } from "../plugins/target/onnx/dbf_layer.ts";
import { runPeer } from "./python.ts";

/** Weights that decoding cycles over: several times an H100's 50 MB of L2. */
const CYCLED_BYTES = 512 << 20;
/** Outputs of layers that one operator adds up: binding each of hundreds to a run takes the host longer than the GPU needs for it. */
const ADDED_AT_ONCE = 8;
/** Layers of one prefill session: far more than L2 holds of activations, few enough to build quickly. */
const PREFILL_LAYERS = 2;
/** Elements of the tensor whose negation gives the copy rate: 1 GiB in, 1 GiB out. */
const COPIED_ELEMENTS = 1 << 29;
const HALF_HUNDREDTH = 0x211f; // 0.01 in float16

/** Random bytes that all weights are cut from: layers lie in memory of their own and may have equal contents. */
const POOL_BYTES = 64 << 20;
/** Offsets of layers in the pool differ by this many bytes, a prime number of 16-byte units. */
const POOL_STEP = 16 * 65537;

interface Shape {
  readonly outputs: number;
  readonly cols: number;
}

interface Contender {
  readonly name: string;
  bytes(shape: Shape): number;
  layer(g: Graph, x: Value, shape: Shape, index: number): Value;
}

function randomBytes(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  return bytes;
}

const pool = randomBytes(POOL_BYTES);
/** float16 of either sign and magnitudes 2^-7 to 2^-6. */
const halfPool = new Uint16Array(pool.buffer.slice(0)).map((bits) => bits & 0x83ff | 0x2000);

/** `length` elements of a pool, repeated where it ends; `index` chooses where they begin. */
function cut<A extends Uint8Array<ArrayBuffer> | Uint16Array<ArrayBuffer>>(from: A, length: number, index: number): A {
  const start = index * POOL_STEP % (from.length / 2);
  if (start + length <= from.length) return from.subarray(start, start + length) as A;
  const out = new (from.constructor as new (length: number) => A)(length);
  for (let at = 0; at < length; at += from.length) out.set(from.subarray(0, Math.min(from.length, length - at)), at);
  return out;
}

/** Rank as `--set allocation.step=16` rounds it: rows of 16-bit activations stay aligned to 16 bytes. */
const rankOf = (bits: number, { outputs, cols }: Shape) =>
  Math.floor(bits * outputs * cols / (outputs + cols) / 16) * 16;

function doubleBinary(bits: number): Contender {
  return {
    name: `dbf ${bits}-bit`,
    bytes: (shape) => packedBytes(rankOf(bits, shape), shape.cols) + packedBytes(shape.outputs, rankOf(bits, shape)),
    layer(g, x, shape, index) {
      const { outputs, cols } = shape, rank = rankOf(bits, shape);
      const signs = (name: string, N: number, K: number) =>
        g.initializer(`${name}${index}`, "uint8", packedShape(N, K), cut(pool, packedBytes(N, K), 2 * index));
      const scale = (name: string, size: number) =>
        g.initializer(`${name}${index}`, "float16", [size], new Uint16Array(size).fill(HALF_HUNDREDTH));
      const h = binaryMatMul(g, mul(g, x, scale("b", cols)), signs("B", rank, cols), scale("mid", rank), rank, cols);
      return binaryMatMul(g, h, signs("A", outputs, rank), scale("a", outputs), outputs, rank);
    },
  };
}

const weights = (g: Graph, name: string, rows: number, cols: number, index: number) =>
  g.initializer(name, "float16", [rows, cols], cut(halfPool, rows * cols, index));

const dense: Contender = {
  name: "cuBLAS float16",
  bytes: ({ outputs, cols }) => 2 * outputs * cols,
  layer: (g, x, { outputs, cols }, index) => matMul(g, x, weights(g, `w${index}`, cols, outputs, index)),
};

/** The two products of a layer at `bits`, with dense factors: what prefill is compared with. */
function denseFactors(bits: number): Contender {
  return {
    name: `cuBLAS factors ${bits}-bit`,
    bytes: (shape) => 2 * rankOf(bits, shape) * (shape.outputs + shape.cols),
    layer(g, x, shape, index) {
      const { outputs, cols } = shape, rank = rankOf(bits, shape);
      const h = matMul(g, x, weights(g, `f${index}`, cols, rank, 2 * index));
      return matMul(g, h, weights(g, `s${index}`, rank, outputs, 2 * index + 1));
    },
  };
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1];
}

/** Median milliseconds of a session's run. */
async function time(session: Session, x: Tensor, outputs: Record<string, Tensor>, turns: number): Promise<number> {
  const times: number[] = [];
  for (let turn = -3; turn < turns; turn++) {
    const started = performance.now();
    await session.run({ x }, { into: outputs });
    if (turn >= 0) times.push(performance.now() - started);
  }
  return median(times);
}

/** Bytes per second of reading and writing by an elementwise operator. */
async function copyRate(runtime: Runtime, elements: number): Promise<number> {
  const g = createGraph("copy");
  g.output("y", neg(g, g.input("x", "float16", [elements])));
  using x = runtime.empty("float16", [elements]);
  using y = runtime.empty("float16", [elements]);
  await using session = await runtime.load(encodeModel(g), { cudaGraph: true });
  return 4 * elements / (await time(session, x, { y }, 7) / 1000);
}

/** Sum of all, as a tree. */
function total(g: Graph, values: readonly Value[]): Value {
  if (values.length === 1) return values[0];
  const sums: Value[] = [];
  for (let at = 0; at < values.length; at += ADDED_AT_ONCE) sums.push(sum(g, ...values.slice(at, at + ADDED_AT_ONCE)));
  return total(g, sums);
}

/** Microseconds of a layer, by rows of X. */
async function layerTimes(
  runtime: Runtime,
  contender: Contender,
  shape: Shape,
  copies: number,
  rowCounts: readonly number[],
  turns: number,
): Promise<Map<number, number>> {
  const g = createGraph("layers");
  const x = g.input("x", "float16", ["rows", shape.cols]);
  const layers = Array.from({ length: copies }, (_, i) => contender.layer(g, x, shape, i));
  const results = copies <= ADDED_AT_ONCE ? layers : [total(g, layers)];
  results.forEach((y, i) => g.output(`y${i}`, y));
  await using session = await runtime.load(encodeModel(g), { recordPlacement: true, cudaGraph: true });
  const stray = session.placement?.find(({ operator, provider }) =>
    operator === "BinaryMatMul" && provider !== runtime.provider
  );
  if (stray) throw new Error(`Cannot bench on ${runtime.provider} as ${stray.name} was placed on ${stray.provider}`);
  const times = new Map<number, number>();
  for (const rows of rowCounts) {
    using feed = runtime.tensor("float16", cut(halfPool, rows * shape.cols, 1), [rows, shape.cols]);
    const outputs: Record<string, Tensor> = {};
    results.forEach((_, i) => outputs[`y${i}`] = runtime.empty("float16", [rows, shape.outputs]));
    times.set(rows, await time(session, feed, outputs, turns) * 1000 / copies);
    for (const tensor of Object.values(outputs)) tensor[Symbol.dispose]();
  }
  return times;
}

/** Runs the bench with the arguments after its name. */
export async function main(args: readonly string[]): Promise<void> {
  const flags = parseArgs([...args], { string: ["sizes", "rows", "turns", "provider", "cycled", "peer-python"] });
  const provider = (flags.provider ?? "cuda") as Provider;
  if (provider === "cuda" && await findNvcc() !== undefined) await buildCudaKernels();
  await using runtime = await openRuntime({ provider });
  if (runtime.nativeKernels === undefined) {
    throw new Error("Cannot bench the kernels as the operator library was not found: run deno task kernels --cuda");
  }
  const cycled = Number(flags.cycled ?? CYCLED_BYTES), turns = Number(flags.turns ?? 9);
  const rate = await copyRate(runtime, Math.min(COPIED_ELEMENTS, cycled));
  console.log(
    `onnxruntime ${runtime.version}, ${provider}, kernels ${runtime.nativeKernels.isa}; copy ${
      (rate / 1e12).toFixed(2)
    } TB/s`,
  );
  const rows = (flags.rows ?? "1,4,16,512,2048").split(",").map(Number);
  const decoded = rows.filter((count) => count <= 16), prefilled = rows.filter((count) => count > 16);
  for (const size of (flags.sizes ?? "4096x4096,4096x14336,8192x28672").split(",")) {
    const [outputs, cols] = size.split("x").map(Number), shape = { outputs, cols };
    const copiesOf = ({ bytes }: Contender) => Math.max(2, Math.ceil(cycled / bytes(shape)));
    const measure = (contender: Contender, copies: number, counts: readonly number[]) =>
      counts.length === 0 ? new Map<number, number>() : layerTimes(runtime, contender, shape, copies, counts, turns);
    const denseTimes = await measure(dense, copiesOf(dense), decoded);
    for (const bits of [1, 2]) {
      const ours = doubleBinary(bits), factors = denseFactors(bits);
      const few = await measure(ours, copiesOf(ours), decoded);
      const many = await measure(ours, PREFILL_LAYERS, prefilled);
      const factorTimes = await measure(factors, PREFILL_LAYERS, prefilled);
      for (const count of rows) {
        const decode = count <= 16;
        const mine = (decode ? few : many).get(count)!, other = (decode ? denseTimes : factorTimes).get(count)!;
        const share = decode ? `  ${(100 * ours.bytes(shape) / (mine / 1e6) / rate).toFixed(1)} % of copy` : "";
        console.log(
          `${outputs}x${cols}, ${count} rows: ${ours.name} ${mine.toFixed(1)} us/layer${share}  ` +
            `${(decode ? dense : factors).name} ${other.toFixed(1)} us  ratio ${(other / mine).toFixed(2)}`,
        );
      }
    }
  }
  if (flags["peer-python"] !== undefined && decoded.length > 0) {
    const args = [runtime.nativeKernels.path, "--decode", "--rows", decoded.join()];
    console.log(`without ONNX Runtime:\n${await runPeer(flags["peer-python"], "kernels_cuda.py", args)}`);
  }
}

if (import.meta.main) await main(Deno.args);
