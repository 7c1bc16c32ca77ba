/**
 * The model's own text as calibration data: it covers what the model can say, not only what a file says.
 *
 * @module
 */
import { generateBatch } from "../evaluate/generate.ts";
import type { LanguageModel } from "../evaluate/language_model.ts";
import { seededRandom } from "../evaluate/sample.ts";

/** What is generated. */
export interface SelfTextOptions {
  /** Windows wanted. */
  readonly count: number;
  /** Tokens a window. */
  readonly length: number;
  readonly seed: number;
  /** Windows generated together. Default 32. */
  readonly batch?: number;
  readonly signal?: AbortSignal;
  readonly progress?: (done: number, total: number) => void;
}

/**
 * Samples windows from a model at temperature 1, each from a first token drawn uniformly from the vocabulary, so that they
 * differ (Liu et al., LLM-QAT, arXiv 2305.17888); end-of-sequence tokens do not end a window. The whole model is in use
 * meanwhile, as in any generation.
 *
 * @returns `count` windows of `length` token ids; the same for the same seed.
 * @throws {RangeError} when the windows do not fit the model's context.
 */
export async function selfText(model: LanguageModel, options: SelfTextOptions): Promise<Int32Array[]> {
  const { count, length, seed, batch = 32, signal } = options;
  const random = seededRandom(seed);
  const windows: Int32Array[] = [];
  while (windows.length < count) {
    const size = Math.min(batch, count - windows.length);
    const prompts = Array.from({ length: size }, () => [Math.floor(random() * model.vocabularySize)]);
    const made = prompts.map(([first]) => Int32Array.of(first, ...new Int32Array(length - 1)));
    const settings = {
      temperature: 1,
      maxTokens: length - 1,
      ignoreEos: true,
      seed: (seed + windows.length) >>> 0,
      signal,
    };
    let at = 1;
    for await (const tokens of generateBatch(model, prompts, settings)) {
      tokens.forEach((token, index) => made[index][at] = token!);
      at++;
    }
    windows.push(...made);
    options.progress?.(windows.length, count);
  }
  return windows;
}
