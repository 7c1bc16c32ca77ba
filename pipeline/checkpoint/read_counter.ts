/**
 * Counts the f32 bytes that readers hand out and that are still alive.
 *
 * @module
 */

/** See {@linkcode createReadCounter}. */
export interface ReadCounter {
  /** Counts an array until it is garbage. */
  readonly add: (values: Float32Array) => void;
  /** Most bytes alive at once so far; garbage counts until it is collected. */
  readonly peakBytes: number;
}

/** Starts a counter at zero. */
export function createReadCounter(): ReadCounter {
  let alive = 0;
  let peak = 0;
  const registry = new FinalizationRegistry<number>((bytes) => {
    alive -= bytes;
  });
  return {
    add(values) {
      alive += values.byteLength;
      peak = Math.max(peak, alive);
      registry.register(values, values.byteLength);
    },
    get peakBytes() {
      return peak;
    },
  };
}
