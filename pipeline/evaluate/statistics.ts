/**
 * Numbers a token to numbers a model.
 *
 * @module
 */

/**
 * Perplexity with its standard error, taking tokens as independent: exp(mean), and exp(mean)·sd/√n (delta method).
 *
 * @param nll Negative log-likelihood of every scored token in nats.
 */
export function perplexityOf(nll: readonly number[] | Float64Array): { perplexity: number; standardError: number } {
  const count = nll.length;
  let mean = 0;
  for (const value of nll) mean += value / count;
  let variance = 0;
  for (const value of nll) variance += (value - mean) ** 2 / Math.max(1, count - 1);
  const perplexity = Math.exp(mean);
  return { perplexity, standardError: perplexity * Math.sqrt(variance / count) };
}

/**
 * Quantile with linear interpolation between order statistics.
 *
 * @param sorted Ascending, not empty.
 * @param fraction 0 … 1.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { quantile } from "./statistics.ts";
 *
 * assertEquals(quantile([1, 2, 3, 5], 0.5), 2.5);
 * ```
 */
export function quantile(sorted: readonly number[] | Float64Array, fraction: number): number {
  const place = fraction * (sorted.length - 1);
  const low = Math.floor(place);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (place - low) * (sorted[high] - sorted[low]);
}
