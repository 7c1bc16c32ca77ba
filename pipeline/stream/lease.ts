/**
 * The memory lease: how many bytes all jobs in flight may hold together.
 *
 * @module
 */

/** Bytes taken out of a lease until disposed. */
export interface Reservation extends Disposable {
  readonly bytes: number;
  /** Gives the bytes back. Disposing twice is harmless. */
  [Symbol.dispose](): void;
}

/** A budget of bytes that jobs take from and give back to, first come first served. */
export interface Lease {
  /** The whole budget in bytes. */
  readonly bytes: number;
  /** Bytes reserved now; never above {@linkcode Lease.bytes}. */
  readonly inUse: number;
  /** Most bytes that were ever reserved at once. */
  readonly peak: number;
  /** Requests that wait. */
  readonly waiting: number;
  /**
   * Waits for `bytes`. Requests are served strictly in order: a small one never overtakes a large one, so none starves.
   *
   * @param bytes Bytes to take, ≥ 0; fractions are rounded up.
   * @param subject What they are for, for errors, e.g. the layer's name.
   * @throws {RangeError} when `bytes` is beyond the whole lease.
   * @throws the signal's reason when it aborts first.
   */
  reserve(bytes: number, subject: string, signal?: AbortSignal): Promise<Reservation>;
}

const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB"];

/** Writes bytes with a binary unit, e.g. `"1.5 GiB"`. */
export function formatBytes(bytes: number): string {
  const power = Math.min(UNITS.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(bytes, 1)) / 10)));
  const value = bytes / 2 ** (10 * power);
  return `${power === 0 ? value : value.toFixed(value < 10 ? 2 : 1)} ${UNITS[power]}`;
}

/**
 * Makes a lease of `bytes`.
 *
 * @throws {RangeError} when `bytes` is not a positive number.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { createLease } from "./lease.ts";
 *
 * const lease = createLease(100);
 * {
 *   using first = await lease.reserve(60, "a layer");
 *   assertEquals([first.bytes, lease.inUse], [60, 60]);
 * }
 * assertEquals([lease.inUse, lease.peak], [0, 60]);
 * ```
 */
export function createLease(bytes: number): Lease {
  if (!(bytes > 0)) throw new RangeError(`Cannot lease memory as bytes must be above 0: current value is ${bytes}`);
  interface Request {
    readonly bytes: number;
    grant(reservation: Reservation): void;
  }
  const queue: Request[] = [];
  let inUse = 0;
  let peak = 0;

  const take = (size: number): Reservation => {
    inUse += size;
    peak = Math.max(peak, inUse);
    let held = true;
    return {
      bytes: size,
      [Symbol.dispose]() {
        if (!held) return;
        held = false;
        inUse -= size;
        serve();
      },
    };
  };
  const serve = () => {
    while (queue.length > 0 && inUse + queue[0].bytes <= bytes) {
      const request = queue.shift()!;
      request.grant(take(request.bytes));
    }
  };

  return {
    bytes,
    get inUse() {
      return inUse;
    },
    get peak() {
      return peak;
    },
    get waiting() {
      return queue.length;
    },
    reserve(requested, subject, signal) {
      const size = Math.ceil(requested);
      if (signal?.aborted) return Promise.reject(signal.reason);
      if (!(size >= 0)) {
        return Promise.reject(
          new RangeError(`Cannot reserve memory for ${subject} as bytes must be ≥ 0: current value is ${requested}`),
        );
      }
      if (size > bytes) {
        return Promise.reject(
          new RangeError(
            `Cannot work on ${subject} as it needs ${formatBytes(size)} (${size} bytes) at once: the lease is ` +
              `${formatBytes(bytes)}; give more with --memory, or leave the layer dense with --keep`,
          ),
        );
      }
      if (queue.length === 0 && inUse + size <= bytes) return Promise.resolve(take(size));
      return new Promise((resolve, reject) => {
        const request: Request = {
          bytes: size,
          grant(reservation) {
            signal?.removeEventListener("abort", onAbort);
            resolve(reservation);
          },
        };
        const onAbort = () => {
          queue.splice(queue.indexOf(request), 1);
          reject(signal!.reason);
          serve(); // whoever stood behind it may fit now
        };
        signal?.addEventListener("abort", onAbort, { once: true });
        queue.push(request);
      });
    },
  };
}
