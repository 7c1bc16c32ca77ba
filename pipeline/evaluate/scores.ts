/**
 * Collecting the numbers of scored tokens into a result.
 *
 * @module
 */
import { perplexityOf, quantile } from "./statistics.ts";

/** What `evaluate` finds; all but `baselinePerplexity` is what `dbf evaluate --json` prints. */
export interface EvaluationResult {
  readonly perplexity: number;
  /** Standard error of the perplexity, tokens taken as independent. */
  readonly perplexityStderr: number;
  /** Scored tokens: all but the first of each window. */
  readonly tokens: number;
  /** Tokens a window. */
  readonly context: number;
  /** KL(baseline ‖ model) in nats per scored token; with a baseline only. */
  readonly kl?: { readonly mean: number; readonly p50: number; readonly p99: number; readonly max: number };
  /** Share of scored tokens for which both prefer the same next token; with a baseline only. */
  readonly sameTop1?: number;
  /** Perplexity of the baseline on the same tokens; with a baseline only. */
  readonly baselinePerplexity?: number;
}

/** Scores of the tokens so far. */
export interface Scores {
  /**
   * Adds one token.
   *
   * @param values Outputs of the scoring graph, `(batch, length)` each.
   * @param index Place of the token in them.
   * @throws {RangeError} when the model gave no number for it.
   */
  add(values: Readonly<Record<string, Float32Array>>, index: number): void;
  /** Perplexity of the tokens so far. */
  perplexity(): number;
  /** @param context Tokens a window. */
  result(context: number): EvaluationResult;
}

/**
 * Starts collecting.
 *
 * @param tokens How many will come.
 * @param pair Whether there is a baseline.
 */
export function collectScores(tokens: number, pair: boolean): Scores {
  const nll = new Float64Array(tokens);
  const kl = new Float64Array(pair ? tokens : 0);
  let count = 0, nllSum = 0, baselineSum = 0, same = 0;
  return {
    add(values, index) {
      const value = values.nll[index];
      if (Number.isNaN(value)) {
        throw new RangeError(
          `Cannot score token ${count} as the model's logits are not numbers: the weights are damaged, or overflow in 16 bits`,
        );
      }
      nll[count] = value;
      nllSum += value;
      if (pair) {
        kl[count] = Math.max(0, values.kl[index]); // below zero only by rounding
        baselineSum += values.baseline_nll[index];
        same += values.same[index];
      }
      count++;
    },
    perplexity: () => Math.exp(nllSum / count),
    result(context) {
      const { perplexity, standardError } = perplexityOf(nll);
      const basic = { perplexity, perplexityStderr: standardError, tokens: count, context };
      if (!pair) return basic;
      const sorted = kl.toSorted();
      const mean = kl.reduce((sum, value) => sum + value, 0) / count;
      return {
        ...basic,
        kl: { mean, p50: quantile(sorted, 0.5), p99: quantile(sorted, 0.99), max: sorted[count - 1] },
        sameTop1: same / count,
        baselinePerplexity: Math.exp(baselineSum / count),
      };
    },
  };
}
