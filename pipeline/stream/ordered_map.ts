/**
 * An asynchronous function as a stream stage: some calls at once, results in the order of the input.
 *
 * @module
 */

/** How {@linkcode orderedMap} runs its function. */
export interface OrderedMapOptions {
  /** Most calls in flight. Default 1. */
  readonly parallel?: number;
  /** Receives every call's promise, so that an owner can wait for all of them after an error. */
  readonly onStart?: (call: Promise<unknown>) => void;
}

/**
 * Wraps `work` into a `TransformStream`. A chunk is accepted only when downstream asks and fewer than `parallel` calls
 * run, so a slow consumer stops the source. Results leave in input order as soon as they are there; the first rejection
 * fails the stream in both directions.
 *
 * @throws {RangeError} when `parallel` is not a positive integer.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { orderedMap } from "./ordered_map.ts";
 *
 * const doubled = ReadableStream.from([1, 2, 3]).pipeThrough(orderedMap((x: number) => Promise.resolve(2 * x)));
 * assertEquals(await Array.fromAsync(doubled), [2, 4, 6]);
 * ```
 */
export function orderedMap<I, O>(
  work: (input: I) => Promise<O>,
  options: OrderedMapOptions = {},
): TransformStream<I, O> {
  const parallel = options.parallel ?? 1;
  if (!Number.isInteger(parallel) || parallel < 1) {
    throw new RangeError(`Cannot run jobs in parallel as --parallel must be ≥ 1: current value is ${parallel}`);
  }
  /** Settles when the result of every accepted chunk was handed on. */
  let tail: Promise<void> = Promise.resolve();
  const running = new Set<Promise<unknown>>();
  return new TransformStream<I, O>(
    {
      async transform(input, controller) {
        const call = (async () => await work(input))();
        options.onStart?.(call);
        running.add(call);
        call.then(() => running.delete(call), (error) => {
          running.delete(call);
          controller.error(error); // at once: results of earlier calls that are still running are dropped
        });
        tail = tail.then(async () => controller.enqueue(await call));
        tail.catch(() => {}); // reported above, or by flush
        if (running.size >= parallel) await Promise.race(running);
      },
      flush: () => tail,
    },
    { highWaterMark: 1 },
    { highWaterMark: 0 },
  );
}
