/**
 * Our factorizer and the reference's ADMM, one after the other on the same machine: errors and times per matrix.
 *
 * ```sh
 * deno task bench factorize [--layers FILE] [--gaussian 4096x4096] [--bits 1,1.5,2] [--effort balanced,best]
 *   [--peer-python PYTHON] [--provider cpu|cuda] [--threads 2] [--only NAME,…] [--out DIR] [--json]
 * ```
 * Both errors come from one f64 routine of the peer script (`--score`), from packed signs and float16 scales. Our time
 * includes graph building and session creation. Without `--peer-python` (a Python with torch, numpy and safetensors) only ours runs.
 *
 * @module
 */
import * as v from "valibot";
import { openRuntime } from "../kernels/runtime/open.ts";
import type { Provider, Runtime } from "../kernels/runtime/types.ts";
import { f32ToF16Bits } from "../pipeline/checkpoint/half.ts";
import { createGraph } from "../pipeline/graph/graph.ts";
import { encodeModel } from "../pipeline/graph/encode.ts";
import { matMul } from "../pipeline/graph/ops.ts";
import { openSafetensors } from "./factorize_data.ts";
import { writeSafetensors } from "../pipeline/checkpoint/safetensors_writer.ts";
import { parseArgs } from "@std/cli/parse-args";
import { factorize } from "../plugins/factorization/dbf_admm/factorize.ts";
import { estimate } from "../plugins/factorization/dbf_admm/estimate.ts";
import { hasNativeOps } from "../plugins/factorization/dbf_admm/native_ops.ts";
import { dbfAdmmOptions, settingsOf } from "../plugins/factorization/dbf_admm/options.ts";
import { weightingOf } from "../plugins/factorization/dbf_admm/weighting.ts";
import type { DbfFactors } from "../pipeline/stream/stage.ts";
import { runPeer } from "./python.ts";

interface Result {
  readonly name: string;
  readonly bits: number;
  readonly rank: number;
  readonly seconds: number;
  readonly file: string;
  readonly effort: string;
}

interface Matrix {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  readonly data: Float32Array;
  readonly importance?: { readonly input: Float32Array; readonly output: Float32Array };
}

/** Standard normals from a linear congruential generator and Box–Muller, for matrices without a file. */
function gaussian(rows: number, cols: number): Float32Array {
  let state = 12345;
  const uniform = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0, (state + 0.5) / 2 ** 32);
  const data = new Float32Array(rows * cols);
  for (let i = 0; i < data.length; i++) {
    data[i] = Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  }
  return data;
}

function layers(path: string, only: readonly string[]): Matrix[] {
  const read = openSafetensors(path);
  return read.names.filter((name) => name.endsWith(".weight")).sort().map((key) => {
    const base = key.slice(0, -".weight".length);
    const { shape: [rows, cols], data } = read.tensor(key);
    const side = (which: string) => read.tensor(`${base}.${which}_importance`).data;
    return { name: base, rows, cols, data, importance: { input: side("input"), output: side("output") } };
  }).filter(({ name }) => only.length === 0 || only.includes(name));
}

async function save(path: string, f: DbfFactors): Promise<void> {
  const bytes = (data: Uint16Array | Uint32Array) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const scale = (name: string, values: Float32Array) => ({
    name,
    dtype: "F16" as const,
    shape: [values.length],
    chunks: bytes(f32ToF16Bits(values)),
  });
  const signs = (name: "A" | "B") => ({
    name,
    dtype: "U8" as const,
    shape: [f[name].rows, 4 * Math.ceil(f[name].cols / 32)],
    chunks: bytes(f[name].words),
  });
  await writeSafetensors(path, [signs("A"), signs("B"), scale("a", f.a), scale("mid", f.mid), scale("b", f.b)]);
}

async function python(command: string, args: readonly string[]): Promise<Record<string, unknown>[]> {
  const printed = await runPeer(command, "factorize_peer.py", args);
  return printed.split("\n").filter(Boolean).map((line) => JSON.parse(line));
}

/** Operations per second of one product of two `size`² matrices, the best of five after a first. */
async function productRate(runtime: Runtime, size: number): Promise<number> {
  const g = createGraph("rate");
  g.output("y", matMul(g, g.input("a", "float32", [size, size]), g.input("b", "float32", [size, size])));
  await using session = await runtime.load(encodeModel(g));
  using a = runtime.tensor("float32", gaussian(size, size), [size, size]);
  let best = 0;
  for (let i = 0; i < 6; i++) {
    const start = performance.now();
    const { y } = await session.run({ a, b: a });
    const seconds = (performance.now() - start) / 1000;
    y[Symbol.dispose]();
    if (i > 0) best = Math.max(best, 2 * size ** 3 / seconds);
  }
  return best;
}

/** Runs the benchmark and prints a table, or JSON with `--json`. */
export async function main(args: readonly string[]): Promise<void> {
  const flags = parseArgs([...args], {
    string: ["layers", "gaussian", "bits", "effort", "peer-python", "provider", "threads", "only", "out", "options"],
    boolean: ["json", "tf32"],
    default: { bits: "1,1.5,2", effort: "balanced,best", threads: "2", provider: "cpu", tf32: true },
  });
  const list = (text: string | undefined) => text === undefined ? [] : text.split(",").filter(Boolean);
  const provider = v.parse(v.picklist(["cpu", "cuda", "webgpu"]), flags.provider) as Provider;
  const out = flags.out ?? await Deno.makeTempDir({ prefix: "dbf-factorize-" });
  await Deno.mkdir(out, { recursive: true });
  const shapes = list(flags.gaussian);
  const file = flags.layers ??
    (shapes.length ? undefined : new URL("./data/layers.safetensors", import.meta.url).pathname);
  const matrices = file === undefined ? [] : layers(file, list(flags.only));
  for (const shape of shapes) {
    const [rows, cols] = shape.split("x").map(Number);
    const data = gaussian(rows, cols);
    await Deno.writeFile(`${out}/gaussian-${shape}.f32`, new Uint8Array(data.buffer));
    matrices.push({ name: `gaussian-${shape}`, rows, cols, data });
  }

  const results: Result[] = [];
  const rates: Record<string, { readonly gflops: number; readonly share: number }> = {};
  for (const { name, rows, cols, data, importance } of matrices) {
    for (const bits of list(flags.bits).map(Number)) {
      const rank = Math.max(1, Math.floor(bits * rows * cols / (rows + cols)));
      for (const effort of list(flags.effort)) {
        const options = v.parse(dbfAdmmOptions, { effort, latents: false, ...JSON.parse(flags.options ?? "{}") });
        const large = await (async () => {
          await using runtime = await openRuntime({ provider, threads: Number(flags.threads) });
          return await productRate(runtime, Math.min(4096, Math.max(512, Math.min(rows, cols))));
        })();
        // A fresh runtime for every matrix: graph building and session creation count.
        await using runtime = await openRuntime({ provider, threads: Number(flags.threads) });
        const settings = settingsOf(options, hasNativeOps(runtime));
        const start = performance.now();
        const factors = await factorize(
          {
            name,
            rows,
            cols,
            rank,
            seed: 1,
            readRows: (start, end) => Promise.resolve(data.subarray(start * cols, end * cols)),
            weighting: weightingOf(importance, rows, cols, name),
          },
          settings,
          { runtime },
        );
        const seconds = (performance.now() - start) / 1000;
        const to = `${effort}.${name}@${bits}.safetensors`;
        await save(`${out}/${to}`, factors);
        const { flops = 0 } = estimate({ name, block: 0, role: "", rows, cols, rank }, settings);
        rates[to] = { gflops: flops / seconds / 1e9, share: flops / seconds / large };
        results.push({ name, bits, rank, seconds, file: to, effort });
        if (!flags.json) {
          console.error(
            `${to}: ${seconds.toFixed(2)} s, error ${factors.weightedError.toFixed(5)}, ${
              (100 * rates[to].share).toFixed(0)
            } % of the MatMul rate`,
          );
        }
      }
    }
  }

  const peerPython = flags["peer-python"];
  if (peerPython === undefined) return;
  const common = [
    ...(file === undefined ? [] : ["--layers", file]),
    ...(list(flags.only).length ? ["--only", ...list(flags.only)] : []),
    ...(shapes.length ? ["--gaussian", ...shapes] : []),
    "--device",
    provider === "cuda" ? "cuda" : "cpu",
  ];
  const peers = await python(peerPython, [
    ...common,
    ...["--bits", ...list(flags.bits), "--threads", String(flags.threads), "--out", out],
    ...(flags.tf32 && provider === "cuda" ? ["--tf32"] : []),
  ]) as unknown as Result[];
  const errors = new Map(
    (await python(peerPython, [...common, "--score", out])).map((
      each,
    ) => [each.file as string, each.weightedError as number]),
  );

  const rows = results.map((ours) => {
    const peer = peers.find((each) => each.name === ours.name && each.bits === ours.bits)!;
    const [error, peerError] = [errors.get(ours.file)!, errors.get(peer.file)!];
    return {
      ...ours,
      error,
      peerError,
      peerSeconds: peer.seconds,
      errorRatio: error / peerError,
      timeRatio: ours.seconds / peer.seconds,
      gflops: rates[ours.file].gflops,
      shareOfMatMul: rates[ours.file].share,
    };
  });
  const geometric = (values: readonly number[]) =>
    Math.exp(values.reduce((sum, x) => sum + Math.log(x), 0) / values.length);
  const summary = list(flags.effort).flatMap((effort) =>
    list(flags.bits).map((bits) => {
      const group = rows.filter((row) => row.effort === effort && row.bits === Number(bits));
      return {
        effort,
        bits: Number(bits),
        errorRatio: geometric(group.map((row) => row.errorRatio)),
        timeRatio: geometric(group.map((row) => row.timeRatio)),
        worstErrorRatio: Math.max(...group.map((row) => row.errorRatio)),
        worstTimeRatio: Math.max(...group.map((row) => row.timeRatio)),
      };
    })
  );
  const document = { provider, threads: Number(flags.threads), matrices: rows, summary };
  await Deno.writeTextFile(`${out}/factorize.json`, JSON.stringify(document, undefined, 2));
  if (flags.json) return console.log(JSON.stringify(document));
  const fixed = (x: number, digits: number) => x.toFixed(digits).padStart(9);
  console.log(
    `${
      "matrix".padEnd(24)
    } bits effort        error      peer     ratio         s    peer s     ratio   GFLOP/s  of MatMul`,
  );
  for (const r of rows) {
    console.log(
      r.name.padEnd(24) + ` ${r.bits.toFixed(1)}  ${r.effort.padEnd(9)}` + fixed(r.error, 5) + " " +
        fixed(r.peerError, 5) + " " +
        fixed(r.errorRatio, 4) + " " + fixed(r.seconds, 2) + " " + fixed(r.peerSeconds, 2) + " " +
        fixed(r.timeRatio, 3) + " " +
        fixed(r.gflops, 1) + " " + fixed(r.shareOfMatMul, 3),
    );
  }
  for (const s of summary) {
    console.log(
      `geometric mean, ${s.effort} at ${s.bits} bits: error ×${s.errorRatio.toFixed(4)} (worst ${
        s.worstErrorRatio.toFixed(4)
      }), ` +
        `time ×${s.timeRatio.toFixed(3)} (worst ${s.worstTimeRatio.toFixed(3)})`,
    );
  }
  console.log(`JSON: ${out}/factorize.json`);
}

if (import.meta.main) await main(Deno.args);
