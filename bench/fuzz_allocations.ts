/**
 * Counts what JavaScript asks of typed arrays, buffers and arrays of a given length, so that a file of a hundred bytes
 * that makes a reader allocate gigabytes is seen even where they are freed at once.
 *
 * @module
 */

const COUNTED = [
  "ArrayBuffer",
  "SharedArrayBuffer",
  "Uint8Array",
  "Int8Array",
  "Uint8ClampedArray",
  "Uint16Array",
  "Int16Array",
  "Uint32Array",
  "Int32Array",
  "Float32Array",
  "Float64Array",
  "BigInt64Array",
  "BigUint64Array",
  "Array",
] as const;

/** Bytes of a slot of an ordinary array. */
const SLOT_BYTES = 8;

/** The count; `restore` puts the constructors back. */
export interface AllocationCount extends Disposable {
  /** Bytes asked for since the last call. */
  take(): number;
}

/** Starts counting in this realm: constructors called with a length count it, others what they copy. */
export function countAllocations(): AllocationCount {
  let bytes = 0;
  const scope = globalThis as unknown as Record<string, new (...args: unknown[]) => unknown>;
  const originals = COUNTED.map((name) => [name, scope[name]] as const);
  for (const [name, original] of originals) {
    const size = (original as unknown as { readonly BYTES_PER_ELEMENT?: number }).BYTES_PER_ELEMENT ??
      (name === "Array" ? SLOT_BYTES : 1);
    const proxy: typeof original = new Proxy(original, {
      construct(target, args, newTarget) {
        const [first] = args;
        if (typeof first === "number" && args.length === 1) bytes += size * first;
        // A view on a buffer allocates nothing.
        else if (typeof first === "object" && first !== null && typeof first.length === "number") {
          bytes += size * first.length;
        }
        return Reflect.construct(target, args, newTarget === proxy ? target : newTarget) as object;
      },
    });
    scope[name] = proxy;
  }
  return {
    take() {
      const taken = bytes;
      bytes = 0;
      return taken;
    },
    [Symbol.dispose]() {
      for (const [name, original] of originals) scope[name] = original;
    },
  };
}
