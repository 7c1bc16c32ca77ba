/**
 * Weights that tuning made, behind the same handle as weights on disk.
 *
 * @module
 */
import type { TensorHandle } from "../checkpoint/types.ts";

/**
 * A handle on an array.
 *
 * @param name The checkpoint's name of the weight.
 * @param data f32, row-major; not copied.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { memoryTensor } from "./memory_tensor.ts";
 *
 * const handle = memoryTensor("w", [2, 2], Float32Array.of(1, 2, 3, 4));
 * assertEquals(await handle.readRows(1, 2), Float32Array.of(3, 4));
 * ```
 */
export function memoryTensor(name: string, shape: readonly number[], data: Float32Array): TensorHandle {
  const perRow = shape.slice(1).reduce((product, dim) => product * dim, 1);
  return {
    name,
    dtype: "F32",
    shape,
    file: "memory",
    readRows(start, end) {
      if (start < 0 || end > shape[0] || start > end) {
        return Promise.reject(new RangeError(`Cannot read rows ${start}…${end} of "${name}" with ${shape[0]} rows`));
      }
      return Promise.resolve(data.slice(start * perRow, end * perRow));
    },
    read: () => Promise.resolve(data.slice()),
    async *bytes(chunkBytes = 1 << 20) {
      const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      for (let at = 0; at < bytes.length; at += chunkBytes) yield bytes.subarray(at, at + chunkBytes);
    },
  };
}
