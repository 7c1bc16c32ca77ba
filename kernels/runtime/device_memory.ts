/**
 * How much of a GPU's memory runs plan to fill.
 *
 * @module
 */
import type { Provider } from "./types.ts";

/** Bytes by provider where nothing is said: less than the cards have that such runs are made on. */
export const DEFAULT_DEVICE_MEMORY: Readonly<Record<Exclude<Provider, "cpu">, number>> = {
  cuda: 2 ** 34,
  webgpu: 2 ** 32,
};

/** What `Runtime.deviceMemory` is for a provider and what was asked for. */
export function deviceMemoryOf(provider: Provider, wanted: number | undefined): number | undefined {
  return provider === "cpu" ? undefined : wanted ?? DEFAULT_DEVICE_MEMORY[provider];
}
