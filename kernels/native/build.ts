/**
 * `deno task kernels`: builds the operator library for this machine's architecture with g++ or clang++, into
 * kernels/native/build/libdbf_ops.so. Nothing is done when the sources did not change since. With `--if-possible` a machine
 * without a compiler is no error.
 *
 * With `--cuda` it is libdbf_ops_cuda.so for the CUDA provider instead, which needs nvcc; see cuda/build.ts.
 *
 * The instruction set is chosen when the library runs, so one build serves every machine of the architecture.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { buildCudaKernels } from "./cuda/build.ts";

/** Flags of every translation unit. No fast-math: NaN and infinity keep their meaning. */
const FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-pthread"];
const AVX512 = ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"];

/** Products and sums in one rounding. */
const CONTRACT = ["-ffp-contract=fast"];

/** Translation units, with what their instruction set needs. */
const UNITS: readonly { readonly file: string; readonly arch?: typeof Deno.build.arch; readonly flags?: string[] }[] = [
  { file: "kernels_scalar.cc" },
  { file: "kernels_avx2.cc", arch: "x86_64", flags: ["-mavx2", "-mfma", "-mf16c"] },
  { file: "kernels_avx512.cc", arch: "x86_64", flags: AVX512 },
  { file: "kernels_avx512_vnni.cc", arch: "x86_64", flags: [...AVX512, "-mavx512vbmi", "-mavx512vnni"] },
  { file: "kernels_neon.cc", arch: "aarch64" },
  { file: "factorizer_scalar.cc", flags: CONTRACT },
  { file: "factorizer_avx2.cc", arch: "x86_64", flags: ["-mavx2", "-mfma", ...CONTRACT] },
  { file: "factorizer_avx512.cc", arch: "x86_64", flags: [...AVX512, "-mprefer-vector-width=512", ...CONTRACT] },
  { file: "factorizer_ops.cc" },
  { file: "dispatch.cc" },
  { file: "binary_matmul.cc" },
  { file: "library.cc" },
  { file: "calls.cc" },
];

/** How a library is built. */
export interface KernelBuildOptions {
  /** Compiler to use; by default the environment's `CXX`, else the first of g++ and clang++ that runs. */
  readonly compiler?: string;
  /** More flags for compiling and linking, e.g. `["-fsanitize=address"]`. */
  readonly flags?: readonly string[];
  /** Directory for the library and its objects; by default kernels/native/build. */
  readonly directory?: string;
  /** A program's source to link instead of a library, e.g. a test driver. */
  readonly program?: string;
}

/** What was built. */
export interface KernelBuild {
  readonly path: string;
  /** False when the library of the same sources, compiler and flags was there already. */
  readonly rebuilt: boolean;
}

/**
 * Builds the operator library for the CPU provider.
 *
 * @throws {Error} when there is no compiler, or with the compiler's own text when it fails.
 */
export async function buildKernels(options: KernelBuildOptions = {}): Promise<KernelBuild> {
  const source = fileURLToPath(new URL(".", import.meta.url));
  const directory = options.directory ?? source + "build";
  const compiler = await findCompiler(options.compiler ?? Deno.env.get("CXX"));
  const path = `${directory}/${options.program === undefined ? "libdbf_ops.so" : "driver"}`;
  const units = UNITS.filter((unit) => unit.arch === undefined || unit.arch === Deno.build.arch);
  const flags = [...FLAGS, ...options.flags ?? []];
  const identity = await identify(source, [compiler.version, Deno.build.arch, ...flags, options.program ?? ""]);
  if (await readText(`${path}.source`) === identity && await exists(path)) return { path, rebuilt: false };

  await Deno.mkdir(directory, { recursive: true });
  // Objects and the library get names of their own until they are complete: a build may run twice at the same time.
  const mark = `${Deno.pid}-${Date.now()}`;
  const objects = units.map((unit) => `${directory}/${unit.file}.${mark}.o`);
  try {
    const compile = (file: string, object: string, more: readonly string[] = []) =>
      run(compiler.command, [...flags, ...more, "-I", source, "-c", file, "-o", object]);
    const jobs = units.map((unit, index) => () => compile(source + unit.file, objects[index], unit.flags));
    if (options.program !== undefined) {
      const object = `${directory}/driver.${mark}.o`;
      const program = options.program;
      jobs.push(() => compile(program, object));
      objects.push(object);
    }
    await inParallel(jobs, navigator.hardwareConcurrency);
    const link = options.program === undefined ? ["-shared"] : [];
    await run(compiler.command, [...flags, ...link, ...objects, "-o", `${path}.${mark}.tmp`]);
    await Deno.rename(`${path}.${mark}.tmp`, path);
    await Deno.writeTextFile(`${path}.source`, identity);
  } finally {
    await Promise.all(objects.map((object) => Deno.remove(object).catch(() => {})));
    await Deno.remove(`${path}.${mark}.tmp`).catch(() => {});
  }
  return { path, rebuilt: true };
}

/** The compiler's command and what it says of itself. */
async function findCompiler(wanted?: string): Promise<{ command: string; version: string }> {
  for (const command of wanted ? [wanted] : ["g++", "clang++"]) {
    try {
      const { success, stdout } = await new Deno.Command(command, { args: ["--version"], stderr: "null" }).output();
      if (success) return { command, version: new TextDecoder().decode(stdout).split("\n")[0] };
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  throw new Error(
    `Cannot build the native kernels as there is no C++ compiler: current value is ${
      wanted ?? "neither g++ nor clang++"
    }. ` +
      "Install one (Debian: apt install g++) or set CXX; without the library everything runs portable function bodies.",
  );
}

/** A hash of all sources and of what else decides the result. */
async function identify(source: string, more: readonly string[]): Promise<string> {
  const names: string[] = [];
  for await (const entry of Deno.readDir(source)) if (/\.(cc|h)$/.test(entry.name)) names.push(entry.name);
  const hash = createHash("sha256");
  for (const name of names.sort()) hash.update(name + "\0").update(await Deno.readFile(source + name));
  for (const text of more) hash.update("\0" + (await readText(text) ?? text));
  return hash.digest("hex");
}

/** Runs a command, silently unless it fails. */
async function run(command: string, args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(command, { args }).output();
  if (success) return;
  throw new Error(`Cannot build the native kernels as ${command} failed:\n${new TextDecoder().decode(stderr)}`);
}

async function inParallel(jobs: (() => Promise<void>)[], limit: number): Promise<void> {
  const queue = jobs.values();
  await Promise.all(Array.from({ length: Math.max(1, limit) }, async () => {
    for (const job of queue) await job();
  }));
}

async function readText(path: string): Promise<string | undefined> {
  return await Deno.readTextFile(path).catch(() => undefined);
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

if (import.meta.main) {
  try {
    const cuda = Deno.args.includes("--cuda");
    const { path, rebuilt } = cuda ? await buildCudaKernels() : await buildKernels();
    console.error(`${rebuilt ? "built" : "unchanged"}: ${path}`);
  } catch (error) {
    console.error(error instanceof Error ? error.message : String(error));
    // With --if-possible whoever asked goes on with portable function bodies, and has been told so.
    if (!Deno.args.includes("--if-possible")) Deno.exit(1);
  }
}
