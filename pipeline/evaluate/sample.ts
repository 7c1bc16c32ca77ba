/**
 * Choosing the next token from one row of logits.
 *
 * @module
 */

/** How tokens are chosen. */
export interface SamplingOptions {
  /** Divides the logits; 0 takes the most likely token. Default 0. */
  readonly temperature?: number;
  /** Keep only this many of the most likely tokens; 0 keeps all. Default 0. */
  readonly topK?: number;
  /** Keep the most likely tokens until their probability reaches this. Default 1. */
  readonly topP?: number;
  /** Drop tokens less likely than this times the most likely one. Default 0. */
  readonly minP?: number;
  /** Divide positive and multiply negative logits of tokens seen before (Keskar et al. 2019). Default 1. */
  readonly repetitionPenalty?: number;
}

/**
 * Checks sampling options.
 *
 * @throws {RangeError} naming the option that is out of range.
 */
export function checkSampling(options: SamplingOptions): void {
  const rules: [keyof SamplingOptions, (value: number) => boolean, string][] = [
    ["temperature", (value) => value >= 0 && value < Infinity, "0 or more"],
    ["topK", (value) => Number.isInteger(value) && value >= 0, "a whole number, 0 or more"],
    ["topP", (value) => value > 0 && value <= 1, "above 0 and at most 1"],
    ["minP", (value) => value >= 0 && value < 1, "0 or more and below 1"],
    ["repetitionPenalty", (value) => value > 0 && value < Infinity, "above 0"],
  ];
  for (const [name, ok, must] of rules) {
    const value = options[name];
    if (value !== undefined && !ok(value)) {
      throw new RangeError(`Cannot use ${value} as ${name}: it must be ${must}`);
    }
  }
}

/** Index of the largest element, the first of equals. */
export function argmax(row: Float32Array): number {
  let best = 0;
  for (let index = 1; index < row.length; index++) if (row[index] > row[best]) best = index;
  return best;
}

/**
 * Chooses a token.
 *
 * @param logits One row, `(vocabulary,)`; it is changed in place.
 * @param seen Tokens of the prompt and of the text so far, for the repetition penalty.
 * @param random Uniform in [0, 1).
 * @returns The token's id.
 * @throws {RangeError} when the row has no finite logit.
 */
export function sampleToken(
  logits: Float32Array,
  options: SamplingOptions,
  seen: ReadonlySet<number>,
  random: () => number,
): number {
  const penalty = options.repetitionPenalty ?? 1;
  if (penalty !== 1) {
    for (const id of seen) {
      if (id < logits.length) {
        logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
      }
    }
  }
  const best = argmax(logits);
  requireFinite([logits[best]]);
  const temperature = options.temperature ?? 0;
  if (temperature === 0) return best;

  const topK = options.topK ?? 0;
  const topP = options.topP ?? 1;
  const minP = options.minP ?? 0;
  // Relative to the best.
  const relative = new Float64Array(logits.length);
  for (let id = 0; id < logits.length; id++) relative[id] = Math.exp((logits[id] - logits[best]) / temperature);
  const probability = (id: number) => relative[id];
  let ids: number[] = [];
  for (let id = 0; id < logits.length; id++) if (relative[id] > 0 && relative[id] >= minP) ids.push(id);
  if (topK > 0 || topP < 1) ids.sort((a, b) => logits[b] - logits[a] || a - b);
  if (topK > 0) ids = ids.slice(0, topK);
  let total = ids.reduce((sum, id) => sum + probability(id), 0);
  if (topP < 1) {
    let kept = 0;
    let mass = 0;
    while (kept < ids.length && mass < topP * total) mass += probability(ids[kept++]);
    ids = ids.slice(0, kept);
    total = mass;
  }
  let rest = random() * total;
  for (const id of ids) {
    rest -= probability(id);
    if (rest < 0) return id;
  }
  return ids[ids.length - 1];
}

/**
 * Checks the largest logit of each row.
 *
 * @throws {RangeError} when one is not finite.
 */
export function requireFinite(largest: Iterable<number>): void {
  for (const logit of largest) {
    if (Number.isFinite(logit)) continue;
    throw new RangeError(
      `Cannot choose a token as the model's logits are ${logit}: the model is damaged, or its numbers overflow`,
    );
  }
}

/**
 * A small seeded generator (mulberry32): the same seed gives the same text.
 *
 * @param seed 32 bits.
 * @returns A function that gives numbers uniform in [0, 1).
 */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
