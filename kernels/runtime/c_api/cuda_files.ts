/**
 * Files that the CUDA provider consists of, beside ONNX Runtime's own library.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { CUDA_PROVIDER_FILE } from "./device_memory.ts";
import { onnxRuntimeDirectory } from "./library.ts";

/** The provider and the bridge through which ONNX Runtime calls it, with whether each is there. */
export function cudaFiles(): { readonly path: string; readonly exists: boolean }[] {
  return [CUDA_PROVIDER_FILE, "libonnxruntime_providers_shared.so"].map((file) => {
    const path = join(onnxRuntimeDirectory(), file);
    return { path, exists: existsSync(path) };
  });
}
