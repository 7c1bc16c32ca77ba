/**
 * Tensors that are used again: a run that writes its outputs into them leaves nothing in its session's arena, where one
 * output would hold the memory around it, and asks the system for no new pages.
 *
 * @module
 */
import type { Runtime, Tensor } from "../../kernels/runtime/types.ts";

/** A tensor lent for a while; disposing it gives it back. */
export interface LentTensor extends Disposable {
  readonly tensor: Tensor;
  /** Takes the tensor over: from now on disposing this does nothing. */
  keep(): Tensor;
}

/** f32 tensors by their shapes. */
export interface TensorPool extends Disposable {
  /** Keeps a tensor for the next who wants its shape; of other shapes than the last few, tensors are let go. */
  give(tensor: Tensor): void;
  /** Lends a tensor of the shape with unspecified contents, given back before or new; disposing the pool ends it where it was not given back. */
  lend(shape: readonly number[]): LentTensor;
}

/** Shapes of which tensors are kept: a block's activations, latents and scales. */
const MOST_SHAPES = 3;

/**
 * Opens an empty pool.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { openRuntime } from "../../kernels/runtime/open.ts";
 * import { openTensorPool } from "./tensor_pool.ts";
 *
 * await using runtime = await openRuntime();
 * using pool = openTensorPool(runtime);
 * const { tensor } = pool.lend([2, 3]);
 * pool.give(tensor);
 * assert(pool.lend([2, 3]).tensor === tensor);
 * ```
 */
export function openTensorPool(runtime: Runtime): TensorPool {
  const spare = new Map<string, Tensor[]>();
  const lent = new Set<Tensor>();
  const keyOf = (shape: readonly number[]) => shape.join(" ");
  const drop = (key: string) => {
    for (const tensor of spare.get(key) ?? []) tensor[Symbol.dispose]();
    spare.delete(key);
  };
  const pool: TensorPool = {
    give(tensor) {
      const key = keyOf(tensor.shape);
      const kept = spare.get(key) ?? [];
      // the shape used last is the last to go
      spare.delete(key);
      spare.set(key, [...kept, tensor]);
      while (spare.size > MOST_SHAPES) drop(spare.keys().next().value!);
    },
    lend(shape) {
      const tensor = spare.get(keyOf(shape))?.pop() ?? runtime.empty("float32", shape);
      lent.add(tensor);
      return {
        tensor,
        keep() {
          lent.delete(tensor);
          return tensor;
        },
        [Symbol.dispose]: () => lent.delete(tensor) && pool.give(tensor),
      };
    },
    [Symbol.dispose]() {
      for (const key of [...spare.keys()]) drop(key);
      for (const tensor of lent) tensor[Symbol.dispose]();
      lent.clear();
    },
  };
  return pool;
}

/** A tensor of one's own as if it were lent; disposing it ends it. */
export function owned(tensor: Tensor): LentTensor {
  let kept = false;
  return {
    tensor,
    keep() {
      kept = true;
      return tensor;
    },
    [Symbol.dispose]: () => kept || tensor[Symbol.dispose](),
  };
}
