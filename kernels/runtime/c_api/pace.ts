/**
 * Decides which runs may hold the event loop: a call on another thread costs some 30 µs, more than a tiny graph itself.
 *
 * @module
 */
import { setImmediate } from "node:timers";
import type { Provider } from "../types.ts";

/**
 * Runs shorter than this may be called directly. On CUDA every thread that calls a session makes it handles of its own, over
 * 100 MB of device memory each, so that calls from other threads are only worth it where the event loop would suffer.
 */
const QUICK_MS: Readonly<Record<Provider, number>> = { cpu: 0.25, cuda: 30, webgpu: 0.25 };

/** Direct calls in a row hold the event loop no longer than this before timers and other work have their turn. */
const SLICE_MS = 4;

let turnEndedAt = 0;
let nextTurn: Promise<void> | undefined;

/** What a session's runs took so far. */
export class Pace {
  /** Largest feeds, in bytes, that were seen to run quickly; -1 when none. */
  #quickBytes = -1;
  readonly #quickMs: number;

  constructor(provider: Provider) {
    this.#quickMs = QUICK_MS[provider];
  }

  /** Whether a run with feeds of so many bytes may be called directly. */
  isQuick(feedBytes: number): boolean {
    return feedBytes <= this.#quickBytes;
  }

  /** Learns from a run that took so long. */
  learn(feedBytes: number, elapsedMs: number): void {
    if (elapsedMs < this.#quickMs) this.#quickBytes = Math.max(this.#quickBytes, feedBytes);
    else if (feedBytes <= this.#quickBytes) this.#quickBytes = -1;
  }
}

/** Whether the event loop was held long enough. */
export function isTurnOver(now: number): boolean {
  return now - turnEndedAt > SLICE_MS;
}

/** Lets timers and other work have their turn. */
export function giveTurn(): Promise<void> {
  return nextTurn ??= new Promise((resolve) => {
    setImmediate(() => {
      nextTurn = undefined;
      turnEndedAt = performance.now();
      resolve();
    });
  });
}
