/**
 * What of this machine can be used, as typed facts; `dbf doctor` prints them.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { cudaFiles } from "./c_api/cuda_files.ts";
import { onnxRuntimePath, openLibrary } from "./c_api/library.ts";
import { missingLibraries } from "./c_api/missing_libraries.ts";
import { probeModel } from "./c_api/probe_model.ts";
import { findNativeLibrary, nativeLibraryPath } from "./native_library.ts";
import { openRuntime } from "./open.ts";
import { processorFlags } from "./processor_flags.ts";
import type { Provider, Runtime } from "./types.ts";

/** A provider, tried with a first graph. */
export interface ProviderFacts {
  readonly provider: Provider;
  readonly usable: boolean;
  readonly binding?: Runtime["binding"];
  /** dbf's native operator library for this provider, where it is built. */
  readonly nativeKernels?: { readonly path: string; readonly isa: string };
  /** Where the library is looked for; absent for a provider that takes no custom operators. */
  readonly nativeKernelsPath?: string;
  /** Why it cannot be used, in the words of whoever refused. */
  readonly problem?: string;
  /** Files and shared libraries that are missing, by path or name. */
  readonly missing?: readonly string[];
  /** What to do about it. */
  readonly remedy?: string;
}

/** A permission that this process lacks. */
export interface PermissionFacts {
  readonly permission: "read" | "write" | "ffi" | "sys";
  /** The flag of `deno run` that grants it. */
  readonly flag: string;
  /** What does not work without it. */
  readonly neededFor: string;
}

/** What {@linkcode diagnose} found. */
export interface Diagnosis {
  /** ONNX Runtime's library; `version` and `build` are absent when it could not be opened. */
  readonly onnxruntime: {
    readonly path: string;
    readonly exists: boolean;
    readonly version?: string;
    readonly build?: string;
    /** dbf's library through which runs are called fast; absent where functions are called by their addresses. */
    readonly callsThrough?: string;
    readonly problem?: string;
  };
  readonly providers: readonly ProviderFacts[];
  /** Instruction sets of the processor that kernels care about, as Linux names them; empty where it does not tell. */
  readonly instructionSets: readonly string[];
  readonly cores: number;
  readonly memory: { readonly totalBytes: number; readonly availableBytes: number } | undefined;
  /** NVIDIA's GPUs with driver version and memory, as its driver tells; absent where it cannot be asked. */
  readonly nvidia: string | undefined;
  readonly missingPermissions: readonly PermissionFacts[];
}

const PERMISSIONS: readonly PermissionFacts[] = [
  { permission: "ffi", flag: "--allow-ffi", neededFor: "ONNX Runtime: its C API, and onnxruntime-node's addon" },
  { permission: "read", flag: "--allow-read", neededFor: "checkpoints, graphs and ONNX Runtime's files" },
  { permission: "write", flag: "--allow-write", neededFor: "artefacts and exported models" },
  {
    permission: "sys",
    flag: "--allow-sys=statfs,systemMemoryInfo",
    neededFor: "checks of memory and disk before a run",
  },
];

/** The kinds of information about the machine that are asked for. */
const SYS_KINDS = ["statfs", "systemMemoryInfo"] as const;

function isGranted({ permission }: PermissionFacts): boolean {
  const granted = (descriptor: Deno.PermissionDescriptor) => Deno.permissions.querySync(descriptor).state === "granted";
  return permission === "sys"
    ? SYS_KINDS.every((kind) => granted({ name: permission, kind } as Deno.SysPermissionDescriptor))
    : granted({ name: permission });
}

/** Names of needed libraries lie at the start of a library; ONNX Runtime's CUDA provider has 270 MB. */
const ELF_NAMES_BYTES = 1 << 24;

const INSTRUCTION_SETS = [
  "sse4_2",
  "avx",
  "avx2",
  "fma",
  "f16c",
  "avx512f",
  "avx512bw",
  "avx512vl",
  "avx512vbmi",
  "avx512_vnni",
  "avx_vnni",
  "avx512_bf16",
  "avx512_fp16",
  "amx_int8",
  "asimd",
  "asimddp",
  "asimdhp",
  "i8mm",
  "sve",
];

/** Looks at this machine and runs a first graph on every provider; never throws for what it finds. */
export async function diagnose(): Promise<Diagnosis> {
  const providers: ProviderFacts[] = [];
  for (const provider of ["cpu", "cuda", "webgpu"] as const) providers.push(await tryProvider(provider));
  return {
    onnxruntime: describeLibrary(),
    providers,
    instructionSets: instructionSets(),
    cores: navigator.hardwareConcurrency,
    memory: memory(),
    nvidia: await nvidia(),
    missingPermissions: PERMISSIONS.filter((fact) => !isGranted(fact)),
  };
}

function describeLibrary(): Diagnosis["onnxruntime"] {
  let path = "";
  try {
    path = onnxRuntimePath();
    const { version, build, callsThrough } = openLibrary();
    return { path, exists: true, version, build, callsThrough };
  } catch (error) {
    return { path, exists: path !== "" && existsSync(path), problem: messageOf(error) };
  }
}

async function tryProvider(provider: Provider): Promise<ProviderFacts> {
  const nativeKernelsPath = nativeLibraryPath(provider);
  try {
    await using runtime = await openRuntime({ provider });
    await using session = await runtime.load(probeModel(), { name: "a first graph" });
    using x = runtime.tensor("float32", Float32Array.of(42), [1]);
    const { y } = await session.run({ x });
    const values = await y.read();
    y[Symbol.dispose]();
    if (values[0] !== 42) throw new Error(`Cannot use ${provider}: a first graph gave ${values[0]} instead of 42`);
    const { binding, nativeKernels } = runtime;
    return { provider, usable: true, binding, nativeKernels, nativeKernelsPath };
  } catch (error) {
    const problem = messageOf(error);
    return {
      provider,
      usable: false,
      problem,
      nativeKernelsPath,
      nativeKernels: findNativeLibrary(provider),
      ...explain(provider, problem),
    };
  }
}

/** What is missing, and what to do. */
function explain(provider: Provider, problem: string): Pick<ProviderFacts, "missing" | "remedy"> {
  if (/--allow-ffi/.test(problem)) return { remedy: "run with --allow-ffi" };
  if (provider === "cpu") return { remedy: "install the packages again: deno install" };
  if (provider === "webgpu") {
    const missing = Deno.build.os === "linux" ? missingLibraries(["libvulkan.so.1"]) : [];
    return missing.length > 0
      ? { missing, remedy: "install the Vulkan loader (Debian and Ubuntu: libvulkan1) and a GPU driver for it" }
      : { missing, remedy: "install a GPU driver with Vulkan, Metal or Direct3D 12" };
  }
  const files = cudaFiles();
  const absent = files.filter((file) => !file.exists).map((file) => file.path);
  if (absent.length > 0) {
    return {
      missing: absent,
      remedy: "place ONNX Runtime's CUDA provider of the same version there, as docs/gpu.md says",
    };
  }
  const needed = files.flatMap((file) => neededLibraries(file.path));
  const missing = missingLibraries([...new Set([...needed, "libcuda.so.1"])]);
  if (missing.includes("libcuda.so.1")) {
    return { missing, remedy: "install NVIDIA's driver (libcuda.so.1 is part of it)" };
  }
  return missing.length > 0
    ? { missing, remedy: "install CUDA and cuDNN of these versions, and name their folders in LD_LIBRARY_PATH" }
    : { missing, remedy: "see that nvidia-smi lists a GPU, and that its driver is new enough for this CUDA" };
}

/** Names of CUDA's libraries that the start of an ELF file mentions, e.g. `"libcudnn.so.9"`. */
function neededLibraries(path: string): string[] {
  try {
    using file = Deno.openSync(path);
    const bytes = new Uint8Array(ELF_NAMES_BYTES);
    const text = new TextDecoder("latin1").decode(bytes.subarray(0, file.readSync(bytes) ?? 0));
    return [...new Set(text.match(/lib(?:cu[a-zA-Z]+|nv[a-zA-Z]+)\.so\.\d+/g) ?? [])];
  } catch {
    return [];
  }
}

function instructionSets(): string[] {
  const present = processorFlags();
  return INSTRUCTION_SETS.filter((name) => present.has(name));
}

/** Asks nvidia-smi, which needs permission to run it; the driver's own files need all permissions. */
async function nvidia(): Promise<string | undefined> {
  try {
    const args = ["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"];
    const { success, stdout } = await new Deno.Command("nvidia-smi", { args, stderr: "null" }).output();
    if (success) return new TextDecoder().decode(stdout).trim().split("\n").join("; ");
  } catch {
    // Absent or not permitted.
  }
  const version = readText("/sys/module/nvidia/version")?.trim();
  return version === undefined ? undefined : `driver ${version}`;
}

function memory(): Diagnosis["memory"] {
  try {
    const { total, available } = Deno.systemMemoryInfo();
    return { totalBytes: total, availableBytes: available };
  } catch {
    return undefined;
  }
}

function readText(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return undefined;
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
