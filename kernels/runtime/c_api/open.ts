/**
 * Opens a provider through ONNX Runtime's C API.
 *
 * @module
 */
import { checkData } from "../dtype.ts";
import { findNativeLibrary } from "../native_library.ts";
import type { Runtime, RuntimeOptions, Tensor } from "../types.ts";
import { deviceMemoryOf } from "../device_memory.ts";
import { type DeviceMemory, openCudaMemory } from "./device_memory.ts";
import { environment, limitCpuArena } from "./environment.ts";
import { probeModel } from "./probe_model.ts";
import { checkProvider } from "./providers.ts";
import { loadSession, type OrtSession } from "./session.ts";
import { type SessionDefaults, withSessionOptions } from "./session_options.ts";
import { check } from "./status.ts";
import { allocateTensor, copyToTensor } from "./tensor.ts";
import { addressOf, newWords } from "./memory.ts";

/**
 * Opens a provider.
 *
 * @throws {Deno.errors.NotCapable} without FFI permission.
 * @throws {Error} when the library or the provider cannot be loaded, with what is missing.
 */
export async function openCApi(options: RuntimeOptions = {}): Promise<Runtime> {
  const env = environment();
  const provider = options.provider ?? "cpu";
  checkProvider(env, provider);
  const nativeLibrary = findNativeLibrary(provider);
  const defaults: SessionDefaults = {
    provider,
    device: options.device ?? 0,
    threads: options.threads,
    arenaBytes: options.arenaBytes,
    nativeLibrary,
  };
  const endLimit = provider === "cpu" && options.arenaBytes !== undefined
    ? limitCpuArena(env, options.arenaBytes)
    : undefined;
  const memory = await openMemory(defaults);
  const sessions = new Set<OrtSession>();
  let closed: Promise<void> | undefined;
  const checkOpen = () => {
    if (closed !== undefined) throw new Error(`Cannot use the ${provider} runtime: it was closed`);
  };
  const close = async () => {
    await Promise.all(Array.from(sessions, (session) => session[Symbol.asyncDispose]()));
    memory?.release();
    endLimit?.();
  };
  return {
    provider,
    binding: "c-api",
    version: env.library.version,
    nativeKernels: nativeLibrary,
    deviceMemory: deviceMemoryOf(provider, options.deviceMemory),
    tensor(dtype, data, shape): Tensor {
      checkOpen();
      checkData(dtype, data, shape);
      return copyToTensor(env, dtype, data, shape, memory);
    },
    empty(dtype, shape): Tensor {
      checkOpen();
      return allocateTensor(env, dtype, shape, memory);
    },
    async load(model, sessionOptions = {}) {
      checkOpen();
      const session = await loadSession(env, defaults, memory, model, sessionOptions);
      if (closed !== undefined) {
        // Closing went through the sessions before this one was there.
        await session[Symbol.asyncDispose]();
        checkOpen();
      }
      for (const other of sessions) if (other.disposed) sessions.delete(other);
      sessions.add(session);
      return session;
    },
    [Symbol.asyncDispose]: () => closed ??= close(),
  };
}

/** Opens the memory of the provider's device with a session of its own, which also proves that the provider loads. */
async function openMemory(defaults: SessionDefaults): Promise<DeviceMemory | undefined> {
  if (defaults.provider !== "cuda") return undefined;
  const env = environment();
  const { api } = env;
  const model = probeModel();
  const out = newWords(1);
  await withSessionOptions(env, defaults, "device memory", { nativeKernels: false }, (sessionOptions) => {
    check(
      api,
      api.CreateSessionFromArray(env.env, addressOf(model), model.length, sessionOptions, out.address),
      "open the CUDA device",
    );
  });
  const session = out.words[0];
  try {
    return openCudaMemory(env, session, defaults.device, () => api.ReleaseSession(session));
  } catch (error) {
    api.ReleaseSession(session);
    throw error;
  }
}
