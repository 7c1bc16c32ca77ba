/**
 * ONNX Runtime's session options from dbf's.
 *
 * @module
 */
import type { NativeLibrary } from "../native_library.ts";
import { sessionThreads } from "../session_threads.ts";
import type { Provider, SessionOptions } from "../types.ts";
import type { Environment } from "./environment.ts";
import { cString, cStrings, newWords } from "./memory.ts";
import { RECORD_PLACEMENT } from "./placement.ts";
import { check } from "./status.ts";

/** Failures are thrown; ONNX Runtime need not print them as well. */
const LOG_LEVEL_FATAL = 4;

const OPTIMIZATION_LEVELS = { disabled: 0, basic: 1, extended: 2, all: 99 } as const;

/** What a runtime decides for all its sessions. */
export interface SessionDefaults {
  readonly provider: Provider;
  readonly device: number;
  readonly threads: number | undefined;
  readonly arenaBytes: number | undefined;
  readonly nativeLibrary: NativeLibrary | undefined;
}

/**
 * Calls `use` with ONNX Runtime's options for a session, and releases them.
 *
 * @throws {OrtError} when the provider or the operator library cannot be loaded.
 */
export async function withSessionOptions<T>(
  environment: Environment,
  defaults: SessionDefaults,
  name: string,
  options: SessionOptions,
  use: (sessionOptions: bigint) => T | Promise<T>,
): Promise<T> {
  const { api } = environment;
  const out = newWords(1).words;
  check(api, api.CreateSessionOptions(out), "make session options");
  const target = out[0];
  try {
    configure(environment, target, defaults, name, options);
    return await use(target);
  } finally {
    api.ReleaseSessionOptions(target);
  }
}

function configure(
  environment: Environment,
  target: bigint,
  defaults: SessionDefaults,
  name: string,
  options: SessionOptions,
): void {
  const { api } = environment;
  const entry = (key: string, value: string) =>
    check(api, api.AddSessionConfigEntry(target, cString(key), cString(value)), `set ${key} of ${name}`);
  check(api, api.SetSessionLogId(target, cString(name)), `name ${name}`);
  check(api, api.SetSessionLogSeverityLevel(target, LOG_LEVEL_FATAL), `set the log level of ${name}`);
  const level = OPTIMIZATION_LEVELS[options.optimization ?? "all"];
  if (level === undefined) {
    throw new TypeError(
      `Cannot load ${name} with optimization "${options.optimization}": known are ${
        Object.keys(OPTIMIZATION_LEVELS).join(", ")
      }`,
    );
  }
  check(api, api.SetSessionGraphOptimizationLevel(target, level), `set the optimization level of ${name}`);
  const threads = sessionThreads(defaults.provider, defaults.threads, options.threads);
  if (threads !== undefined) {
    if (!Number.isSafeInteger(threads) || threads < 1) {
      throw new RangeError(`Cannot load ${name} with ${threads} threads: it must be an integer of at least 1`);
    }
    check(api, api.SetIntraOpNumThreads(target, threads), `set the threads of ${name}`);
  }
  if (options.memoryPattern === false) {
    check(api, api.DisableMemPattern(target), `set the memory pattern of ${name}`);
  }
  // Idle threads of one session must not spin while another one runs.
  entry("session.force_spinning_stop", "1");
  if (defaults.provider === "cpu" && defaults.arenaBytes !== undefined) entry("session.use_env_allocators", "1");
  if (options.recordPlacement || options.requirePlacement?.length) entry(RECORD_PLACEMENT, "1");
  if (options.profilePrefix !== undefined) {
    check(api, api.EnableProfiling(target, cString(options.profilePrefix)), `profile ${name}`);
  }
  if (options.accuracy !== undefined) entry("dbf.accuracy", options.accuracy);
  if (options.nativeKernels !== false && defaults.nativeLibrary !== undefined) {
    const { path } = defaults.nativeLibrary;
    check(api, api.RegisterCustomOpsLibrary_V2(target, cString(path)), `register the operators of ${path}`);
  }
  if (defaults.provider === "cuda") appendCuda(environment, target, defaults, options);
  if (defaults.provider === "webgpu") {
    const keys = cStrings(defaults.device === 0 ? [] : ["deviceId"]);
    const values = cStrings(defaults.device === 0 ? [] : [String(defaults.device)]);
    check(
      api,
      api.SessionOptionsAppendExecutionProvider(target, cString("WebGPU"), keys.words, values.words, keys.count),
      'use the provider "webgpu"',
    );
  }
}

function appendCuda({ api }: Environment, target: bigint, defaults: SessionDefaults, options: SessionOptions): void {
  const settings: Record<string, string> = {
    device_id: String(defaults.device),
    use_tf32: options.tf32 === false ? "0" : "1",
    enable_cuda_graph: options.cudaGraph ? "1" : "0",
    arena_extend_strategy: "kSameAsRequested",
    do_copy_in_default_stream: "1",
    ...(defaults.arenaBytes === undefined ? {} : { gpu_mem_limit: String(defaults.arenaBytes) }),
  };
  const out = newWords(1).words;
  check(api, api.CreateCUDAProviderOptions(out), 'use the provider "cuda"');
  const cuda = out[0];
  try {
    const keys = cStrings(Object.keys(settings));
    const values = cStrings(Object.values(settings));
    check(
      api,
      api.UpdateCUDAProviderOptions(cuda, keys.words, values.words, keys.count),
      "set options of the CUDA provider",
    );
    check(api, api.SessionOptionsAppendExecutionProvider_CUDA_V2(target, cuda), 'use the provider "cuda"');
  } finally {
    api.ReleaseCUDAProviderOptions(cuda);
  }
}
