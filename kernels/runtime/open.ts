/**
 * Opens a provider of ONNX Runtime.
 *
 * @module
 */
import type { Runtime, RuntimeOptions } from "./types.ts";
import { openNodeBinding } from "./node_binding/open.ts";

/**
 * Opens a provider through the binding asked for.
 *
 * @throws {Error} when the provider or the binding cannot be loaded, with what is missing.
 */
export function openRuntime(options: RuntimeOptions = {}): Promise<Runtime> {
  return openNodeBinding(options);
}
