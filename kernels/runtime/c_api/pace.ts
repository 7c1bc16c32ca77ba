/**
 * Decides which runs may hold the event loop: a call on another thread costs some 30 µs, more than a tiny graph itself.
 *
 * @module
 */
import { setImmediate } from "node:timers";

/** Runs shorter than this may be called directly. */
const QUICK_MS = 0.25;

/** Direct calls in a row hold the event loop no longer than this before timers and other work have their turn. */
const SLICE_MS = 4;

let turnEndedAt = 0;
let nextTurn: Promise<void> | undefined;

/** What a session's runs took so far. */
export class Pace {
  /** Largest feeds, in bytes, that were seen to run quickly; -1 when none. */
  #quickBytes = -1;

  /** Whether a run with feeds of so many bytes may be called directly. */
  isQuick(feedBytes: number): boolean {
    return feedBytes <= this.#quickBytes;
  }

  /** Learns from a run that took so long. */
  learn(feedBytes: number, elapsedMs: number): void {
    if (elapsedMs < QUICK_MS) this.#quickBytes = Math.max(this.#quickBytes, feedBytes);
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
