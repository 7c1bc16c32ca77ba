/**
 * Providers that the opened library can serve.
 *
 * @module
 */
import type { Provider } from "../types.ts";
import { CUDA_PROVIDER_FILE } from "./device_memory.ts";
import type { Environment } from "./environment.ts";
import { newWords, textAt, wordsAt } from "./memory.ts";
import { cudaFiles } from "./cuda_files.ts";
import { check } from "./status.ts";

/** ONNX Runtime's names of dbf's providers. */
const NAMES: Readonly<Record<Provider, string>> = {
  cpu: "CPUExecutionProvider",
  cuda: "CUDAExecutionProvider",
  webgpu: "WebGpuExecutionProvider",
};

/** Providers compiled into the library or loadable by it, by ONNX Runtime's names. */
export function builtProviders({ api }: Environment): string[] {
  const names = newWords(1).words;
  const count = new Int32Array(new ArrayBuffer(8));
  check(api, api.GetAvailableProviders(names, count), "list providers");
  const texts = Array.from(wordsAt(names[0], count[0]), textAt);
  check(api, api.ReleaseAvailableProviders(names[0], count[0]), "free the list of providers");
  return texts;
}

/**
 * Checks, before any session is made, that a provider can be there.
 *
 * @throws {TypeError} for an unknown provider.
 * @throws {Error} that names the missing file, or the providers that the library was built with.
 */
export function checkProvider(environment: Environment, provider: Provider): void {
  const name = NAMES[provider];
  if (name === undefined) {
    throw new TypeError(
      `Cannot open provider "${provider}": known providers are ${Object.keys(NAMES).join(", ")}`,
    );
  }
  if (provider === "cuda") {
    const missing = cudaFiles().filter((file) => !file.exists);
    if (missing.length > 0) {
      throw new Error(
        `Cannot open provider "cuda": ${missing.map((file) => file.path).join(" and ")} ${
          missing.length === 1 ? "is" : "are"
        } missing; place the ${CUDA_PROVIDER_FILE} and libonnxruntime_providers_shared.so of ONNX Runtime ${environment.library.version} there (docs/gpu.md says from where)`,
      );
    }
  } else {
    const built = builtProviders(environment);
    if (!built.includes(name)) {
      throw new Error(
        `Cannot open provider "${provider}": ${environment.library.path} was built with ${built.join(", ")}`,
      );
    }
  }
}
