/**
 * What calibrated stages hold at once, where no option says it: on a GPU shares of its memory that the run may fill, on
 * the CPU fixed bytes.
 *
 * @module
 */
import type { Runtime } from "../../kernels/runtime/types.ts";
import { DEFAULT_DEVICE_MEMORY } from "../../kernels/runtime/device_memory.ts";

/** What is held: while one stage runs its uses are there together, those of other stages are not. */
export type DeviceUse =
  /** Inputs of all blocks for a chunk of windows, in an importance pass. */
  | "block inputs"
  /** Caches of windows that are written together. */
  | "generation caches"
  /** Latents, scales and moments of a distillation. */
  | "training state"
  /** Activations of all windows at one block; a reconstruction has four such sets, a distillation two beside its state. */
  | "one set of activations";

/** Shares of {@linkcode Runtime.deviceMemory}; sessions and weights need the rest. */
const SHARES: Readonly<Record<DeviceUse, number>> = {
  "block inputs": 1 / 2,
  "generation caches": 1 / 2,
  "training state": 1 / 4,
  "one set of activations": 1 / 8,
};

/** On the CPU, whose lease `plan` compares with what stages say; activations are in files there. */
export const CPU_BYTES: Readonly<Record<DeviceUse, number>> = {
  "block inputs": 2 ** 28,
  "generation caches": 2 ** 30,
  "training state": 2 ** 30,
  "one set of activations": 0,
};

/**
 * Most bytes for a use.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { bytesFor } from "./device_memory.ts";
 *
 * assertEquals(bytesFor({ provider: "cuda", deviceMemory: 64 * 2 ** 30 }, "one set of activations"), 8 * 2 ** 30);
 * assertEquals(bytesFor({ provider: "cpu" }, "training state"), 2 ** 30);
 * ```
 */
export function bytesFor(
  { provider, deviceMemory }: Pick<Runtime, "provider" | "deviceMemory">,
  use: DeviceUse,
): number {
  if (provider === "cpu") return CPU_BYTES[use];
  return Math.floor((deviceMemory ?? DEFAULT_DEVICE_MEMORY[provider]) * SHARES[use]);
}
