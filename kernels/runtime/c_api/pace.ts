/**
 * Decides which runs may hold the event loop: a call on another thread costs some 30 µs, more than a tiny graph itself.
 *
 * @module
 */

/** Runs shorter than this may be called directly. */
const QUICK_MS = 0.25;

/** Direct calls in a row hold the event loop no longer than this before one gives timers and other work their turn. */
const SLICE_MS = 2;

let turnEndedAt = 0;

/** What a session's runs took so far. */
export class Pace {
  /** Largest feeds, in bytes, that were seen to run quickly; -1 when none. */
  #quickBytes = -1;

  /** Whether a run with feeds of so many bytes may be called directly. */
  mayHoldLoop(feedBytes: number): boolean {
    return feedBytes <= this.#quickBytes && performance.now() - turnEndedAt < SLICE_MS;
  }

  /** Learns from a run that took so long. `held` says whether it was called directly. */
  learn(feedBytes: number, elapsedMs: number, held: boolean): void {
    if (!held) turnEndedAt = performance.now();
    if (elapsedMs < QUICK_MS) this.#quickBytes = Math.max(this.#quickBytes, feedBytes);
    else if (feedBytes <= this.#quickBytes) this.#quickBytes = -1;
  }
}
