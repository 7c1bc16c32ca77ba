/**
 * Opens a provider of ONNX Runtime.
 *
 * @module
 */
import type { Runtime, RuntimeOptions } from "./types.ts";
import { openCApi } from "./c_api/open.ts";
import { openNodeBinding } from "./node_binding/open.ts";

/**
 * Opens a provider through the binding asked for. `"auto"` decides by permission alone: with FFI permission it is the C
 * API, whose failures are errors and no reason to try the other binding.
 *
 * @throws {TypeError} for an unknown binding.
 * @throws {Error} when the provider or the binding cannot be loaded, with what is missing.
 */
export function openRuntime(options: RuntimeOptions = {}): Promise<Runtime> {
  switch (options.binding ?? "auto") {
    case "c-api":
      return openCApi(options);
    case "onnxruntime-node":
      return openNodeBinding(options);
    case "auto":
      return mayLoadLibraries() ? openCApi(options) : openNodeBinding(options);
    default:
      return Promise.reject(
        new TypeError(
          `Cannot open a runtime with binding "${options.binding}": known are auto, c-api, onnxruntime-node`,
        ),
      );
  }
}

/** Whether this process may call native code and read its memory, which Deno grants only as a whole; never prompts. */
function mayLoadLibraries(): boolean {
  return typeof Deno !== "undefined" && Deno.permissions.querySync({ name: "ffi" }).state === "granted";
}
