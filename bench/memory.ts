/**
 * `deno task bench memory`: is the memory promise kept?
 *
 * Two parts. A 141 GB checkpoint of Llama-3-70B's shape, as sparse files in which two blocks hold random bf16, goes through the
 * command line; peak resident memory is compared with what `plan` promised. Then a smaller model is compressed without data
 * and calibrated (importance, block tuning, distillation) in processes that the system does not let have more than promised.
 *
 * @module
 */
import { join } from "node:path";
import { parseArgs } from "@std/cli/parse-args";
import { type LlamaShape, writeLlama } from "./memory_checkpoint.ts";
import { findMemoryLimit, type MemoryLimit } from "./memory_limit.ts";

/** Llama-3-70B. */
const LARGE: LlamaShape = {
  hidden: 8192,
  intermediate: 28672,
  vocabulary: 128256,
  heads: 64,
  kvHeads: 8,
  headDim: 128,
  blocks: 80,
  filledBlocks: 2,
};
/** A model that is tuned in minutes on two cores, and whose blocks are large beside an empty process. */
const SMALL: LlamaShape = {
  hidden: 1024,
  intermediate: 2816,
  vocabulary: 4096,
  heads: 8,
  kvHeads: 2,
  headDim: 128,
  blocks: 2,
  filledBlocks: 2,
  filledEnds: true,
};
/** Between two looks at a process; what counts only rises, so that at most the last moment is missed. */
const WATCH_SECONDS = 0.05;
const PROGRAM = new URL("../mod.ts", import.meta.url).pathname;

/** What a process took. */
export interface Measured {
  readonly peakRssBytes: number;
  readonly seconds: number;
  readonly stdout: string;
}

/** One line of the table. */
export interface Row extends Measured {
  readonly what: string;
  readonly promisedBytes?: number;
  readonly limitBytes?: number;
}

/** The peak of a process's resident memory (VmHWM), once it has ended. A shell looks, as Deno reads no /proc without all permissions. */
async function watchPeak(pid: number): Promise<number> {
  const script = `while kill -0 ${pid} 2>/dev/null; do grep VmHWM /proc/${pid}/status; sleep ${WATCH_SECONDS}; done`;
  const { stdout } = await new Deno.Command("sh", { args: ["-c", script], stderr: "null" }).output();
  const found = [...new TextDecoder().decode(stdout).matchAll(/VmHWM:\s+(\d+) kB/g)].map(([, kilobytes]) =>
    Number(kilobytes)
  );
  return 1024 * Math.max(0, ...found);
}

/**
 * Runs the command line in a process of its own, under a limit where one is given, and watches the peak of its resident memory (VmHWM).
 *
 * @throws {Error} when it fails, or the limit ends it.
 */
export async function runMeasured(args: readonly string[], limit?: MemoryLimit, limitBytes = 0): Promise<Measured> {
  const started = performance.now();
  const plain = [Deno.execPath(), "run", "-A", "--no-check", PROGRAM, ...args];
  const [command, ...rest] = limit?.wrap(plain, limitBytes) ?? plain;
  const child = new Deno.Command(command, { args: rest, stdout: "piped", stderr: "piped" }).spawn();
  const watched = watchPeak(child.pid);
  const { success, stdout, stderr, signal } = await child.output();
  if (!success) {
    const text = new TextDecoder().decode(stderr).split("\n").slice(-12).join("\n");
    const why = signal === null ? "" : ` (${signal}: with a limit, that means it needed more than ${gib(limitBytes)})`;
    throw new Error(`Cannot measure "dbf ${args.join(" ")}" as it failed${why}:\n${text}`);
  }
  return {
    peakRssBytes: await watched,
    seconds: (performance.now() - started) / 1000,
    stdout: new TextDecoder().decode(stdout),
  };
}

const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(2)} GiB`;

/** What `plan` promises for these flags, in bytes. */
async function promiseOf(model: string, flags: readonly string[]): Promise<number> {
  const { stdout } = await runMeasured(["plan", model, ...flags, "--json"]);
  return Math.ceil(Number(JSON.parse(stdout).peakBytes));
}

/** Compresses and exports parts of a checkpoint far larger than memory. */
async function measureLarge(root: string, blocks: number): Promise<Row[]> {
  const model = join(root, "large");
  const bytes = await writeLlama(model, { ...LARGE, blocks });
  const shape = ["--blocks", `0-${LARGE.filledBlocks - 1}`];
  // One outer step and nothing after it: what is measured is memory, and every buffer is held from the first step on.
  const once = ["iterations=1", "sweeps=0", "pairPasses=0", "latents=false"];
  const compress = ["--bits", "0.25", ...shape, "--dtype", "f16", "--memory", "16GiB"]
    .concat(once.flatMap((option) => ["--set", `factorization.${option}`]));
  const plan = await runMeasured(["plan", model, "--bits", "1.5", "--json"]);
  const promisedBytes = await promiseOf(model, compress);
  const dense = await runMeasured(["export", model, join(root, "dense"), ...shape, "--dtype", "f16", "--json"]);
  await Deno.remove(join(root, "dense"), { recursive: true });
  const packed = await runMeasured(["compress", model, join(root, "out"), ...compress, "--json"]);
  return [
    { what: `plan of ${blocks} blocks (${(bytes / 1e9).toFixed(0)} GB)`, ...plan },
    { what: `export of ${LARGE.filledBlocks} blocks kept dense, f16`, ...dense, promisedBytes: 2 ** 30 },
    { what: `compress of ${LARGE.filledBlocks} blocks at 0.25 bit, one iteration`, ...packed, promisedBytes },
  ];
}

/**
 * Runs both pipelines in processes that may have no more than was promised.
 *
 * @param more Flags of the calibrated one.
 */
export async function measureLimited(
  root: string,
  limit: MemoryLimit,
  shape: LlamaShape = SMALL,
  more: readonly string[] = [],
): Promise<Row[]> {
  const model = join(root, "small");
  await writeLlama(model, shape);
  const tokens = join(root, "tokens.json");
  const ids = Array.from({ length: 2048 }, (_, index) => (index * 2654435761 >>> 7) % shape.vocabulary);
  await Deno.writeTextFile(tokens, JSON.stringify(ids));
  const once = [
    "--bits",
    "1",
    "--threads",
    "2",
    "--set",
    "factorization.iterations=2",
    "--set",
    "factorization.sweeps=0",
  ];
  const calibrated = [
    ...["--calibration", tokens, "--set", "calibration.sequences=8", "--set", "calibration.length=128"],
    ...["--effort", "fast", "--set", "reconstruction=block-tuning", "--set", "distillation=logits", ...more],
  ];
  const rows: Row[] = [];
  for (const [what, own] of [["data-free", []], ["calibrated, tuned and distilled", calibrated]] as const) {
    const flags = [...once, ...own];
    const promisedBytes = await promiseOf(model, flags);
    const limitBytes = limit.nearest(promisedBytes);
    const found = await runMeasured(["compress", model, join(root, what), ...flags, "--json"], limit, limitBytes);
    rows.push({ what: `compress, ${what}, under ${limit.kind}`, ...found, promisedBytes, limitBytes });
  }
  return rows;
}

/**
 * Runs the benchmark.
 *
 * @param args `--dir DIR` (default: a temporary directory, removed afterwards), `--part large|limited` (default both),
 *   `--blocks N` (default 80), `--json`
 * @throws {Error} when a command fails, the file system has no sparse files, or this machine cannot limit a process.
 */
export async function main(args: readonly string[]): Promise<void> {
  const flags = parseArgs([...args], { string: ["dir", "blocks", "part"], boolean: ["json"] });
  const root = flags.dir ?? await Deno.makeTempDir({ prefix: "dbf-memory-" });
  const rows: Row[] = [];
  try {
    if (flags.part !== "large") {
      await using limit = await findMemoryLimit();
      rows.push(...await measureLimited(root, limit));
    }
    if (flags.part !== "limited") rows.push(...await measureLarge(root, Number(flags.blocks ?? LARGE.blocks)));
  } finally {
    if (flags.dir === undefined) await Deno.remove(root, { recursive: true });
  }
  if (flags.json) {
    console.log(JSON.stringify(rows.map(({ stdout: _stdout, ...row }) => row), null, 2));
    return;
  }
  console.log("| run | peak RSS | promise | ratio | limit | seconds |\n|---|---:|---:|---:|---:|---:|");
  for (const { what, peakRssBytes, promisedBytes, limitBytes, seconds } of rows) {
    const size = (bytes: number | undefined) => bytes === undefined ? "–" : gib(bytes);
    const ratio = promisedBytes === undefined ? "–" : (peakRssBytes / promisedBytes).toFixed(2);
    console.log(
      `| ${what} | ${gib(peakRssBytes)} | ${size(promisedBytes)} | ${ratio} | ${size(limitBytes)} | ${
        seconds.toFixed(1)
      } |`,
    );
  }
}
