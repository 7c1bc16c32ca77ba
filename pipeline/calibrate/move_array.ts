/**
 * Large arrays of JavaScript that are given back at once. V8 sees a small object and collects it late: a step after the
 * other, hundreds of megabytes that nobody uses wait for it.
 *
 * @module
 */
import type { Runtime, Tensor } from "../../kernels/runtime/types.ts";

/**
 * Gives the memory of arrays back; they, and all views of their buffers, are empty afterwards.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { freeArrays } from "./move_array.ts";
 *
 * const all = new Float32Array(4), half = all.subarray(0, 2);
 * freeArrays([half]);
 * assertEquals([all.length, half.length], [0, 0]);
 * ```
 */
export function freeArrays(arrays: Iterable<ArrayBufferView>): void {
  for (const { buffer } of arrays) if (buffer instanceof ArrayBuffer && !buffer.detached) buffer.transfer(0);
}

/**
 * Makes an f32 tensor of an array that nobody needs any more.
 *
 * @param data Row-major; empty afterwards.
 */
export function moveToTensor(runtime: Runtime, data: Float32Array, shape: readonly number[]): Tensor {
  const tensor = runtime.tensor("float32", data, shape);
  freeArrays([data]);
  return tensor;
}
