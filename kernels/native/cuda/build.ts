/**
 * Builds the operator library for ONNX Runtime's CUDA provider with nvcc, into kernels/native/build/libdbf_ops_cuda.so.
 * No GPU is needed for it. CUDA's runtime is linked in statically, so running it needs the driver only.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";

/** Machine code of 8.0 (8.x runs it too), its PTX for devices that are newer, and Hopper's own instructions (CUDA 12 and later). */
const ARCHITECTURES = [
  "-gencode=arch=compute_80,code=[sm_80,compute_80]",
  "-gencode=arch=compute_90a,code=sm_90a",
];
const FLAGS = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden"];
const LINK = ["-cudart", "static", "-Xcompiler", "-static-libstdc++,-static-libgcc", "-Xlinker", "--exclude-libs,ALL"];
const UNITS = [
  "decode_bits_short.cu",
  "decode_bits_long.cu",
  "decode_bytes.cu",
  "prefill_wgmma.cu",
  "prefill_mma.cu",
  "binary_matmul.cu",
];

/** How the CUDA library is built. */
export interface CudaBuildOptions {
  /** nvcc to use; by default what {@linkcode findNvcc} finds. */
  readonly nvcc?: string;
  /** Directory of the result; by default kernels/native/build. */
  readonly directory?: string;
  /** A program's source (.cu) to link with the kernels instead of making the library, e.g. a test driver. */
  readonly program?: string;
}

/**
 * The command of CUDA's compiler: the environment's `NVCC`, `nvcc` on the PATH, or the one in `CUDA_HOME`, `CUDA_PATH` or /usr/local/cuda.
 *
 * @returns undefined when there is none: then only the library for the CPU can be built.
 */
export async function findNvcc(): Promise<string | undefined> {
  const named = Deno.env.get("NVCC");
  const homes = [Deno.env.get("CUDA_HOME"), Deno.env.get("CUDA_PATH"), "/usr/local/cuda"];
  const places = homes.filter((home) => home !== undefined).map((home) => `${home}/bin/nvcc`);
  for (const command of named ? [named] : ["nvcc", ...places]) {
    try {
      const { success } = await new Deno.Command(command, { args: ["--version"], stdout: "null", stderr: "null" })
        .output();
      if (success) return command;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound || error instanceof Deno.errors.PermissionDenied)) throw error;
    }
  }
  return undefined;
}

/**
 * Builds the operator library for the CUDA provider; nothing is done when its sources did not change since.
 *
 * @returns The library's path, and whether it was built now.
 * @throws {Error} when there is no nvcc, or with its own text when it fails.
 */
export async function buildCudaKernels(options: CudaBuildOptions = {}): Promise<{ path: string; rebuilt: boolean }> {
  const source = fileURLToPath(new URL(".", import.meta.url));
  const directory = options.directory ?? fileURLToPath(new URL("../build", import.meta.url));
  const nvcc = options.nvcc ?? await findNvcc();
  if (nvcc === undefined) {
    throw new Error(
      "Cannot build the CUDA kernels as there is no nvcc: current value of NVCC is undefined. " +
        "Install CUDA 12 or later, or set NVCC; on a session's GPU everything runs portable function bodies without the library.",
    );
  }
  const name = options.program === undefined ? "libdbf_ops_cuda.so" : "cuda_driver";
  const path = `${directory}/${name}`;
  const identity = await identify([source, fileURLToPath(new URL("..", import.meta.url))], [
    nvcc,
    ...ARCHITECTURES,
    ...FLAGS,
  ], options.program);
  if (await Deno.readTextFile(`${path}.source`).catch(() => "") === identity && await exists(path)) {
    return { path, rebuilt: false };
  }

  // Objects get a directory of their own until the library is complete: a build may run twice at the same time.
  await Deno.mkdir(directory, { recursive: true });
  const work = await Deno.makeTempDir({ dir: directory, prefix: "cuda-" });
  try {
    const object = (file: string) => `${work}/${file.replace(/^.*\//, "")}.o`;
    const compile = [...UNITS.map((file) => source + file), options.program ?? source + "library.cc"];
    for (const file of compile) await run(nvcc, [...ARCHITECTURES, ...FLAGS, "-c", file, "-o", object(file)]);
    const kind = options.program === undefined ? ["-shared"] : [];
    await run(nvcc, [...kind, ...LINK, ...await libraryFolder(nvcc), ...compile.map(object), "-o", `${work}/${name}`]);
    await Deno.rename(`${work}/${name}`, path);
    await Deno.writeTextFile(`${path}.source`, identity);
  } finally {
    await Deno.remove(work, { recursive: true });
  }
  return { path, rebuilt: true };
}

/** Some distributions of nvcc keep their libraries in lib, where nvcc itself does not look. */
async function libraryFolder(nvcc: string): Promise<string[]> {
  const folder = nvcc.replace(/bin\/nvcc$/, "lib");
  return folder !== nvcc && await exists(`${folder}/libcudart_static.a`) ? ["-L", folder] : [];
}

/** A hash of all sources and of what else decides the result. */
async function identify(folders: string[], more: readonly string[], program?: string): Promise<string> {
  const hash = createHash("sha256");
  for (const folder of folders) {
    const names: string[] = [];
    for await (const entry of Deno.readDir(folder)) if (/\.(cu|cuh|cc|h)$/.test(entry.name)) names.push(entry.name);
    for (const name of names.sort()) hash.update(name + "\0").update(await Deno.readFile(`${folder}/${name}`));
  }
  if (program !== undefined) hash.update(await Deno.readFile(program));
  for (const text of more) hash.update("\0" + text);
  return hash.digest("hex");
}

/** Runs a command, silently unless it fails. */
async function run(command: string, args: string[]): Promise<void> {
  const { success, stdout, stderr } = await new Deno.Command(command, { args }).output();
  if (success) return;
  const text = new TextDecoder();
  throw new Error(`Cannot build the CUDA kernels as ${command} failed:\n${text.decode(stdout)}${text.decode(stderr)}`);
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

if (import.meta.main) {
  try {
    const { path, rebuilt } = await buildCudaKernels({ program: Deno.args[0] });
    console.error(`${rebuilt ? "built" : "unchanged"}: ${path}`);
  } catch (error) {
    console.error(error instanceof Error ? error.message : String(error));
    Deno.exit(1);
  }
}
