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
  /** Windows of a text of that length: each window then continues a piece of it, a quarter as long. Default: none. */
  readonly text?: readonly Int32Array[];
  readonly seed: number;
  /** Windows generated together. Default: as many as `CACHE_BYTES` allows, at most 128. */
  readonly batch?: number;
  readonly signal?: AbortSignal;
  readonly progress?: (done: number, total: number) => void;
}

/** Caches of the windows that are generated together may take so much, before and after a step at once. */
const CACHE_BYTES = { cpu: 2 ** 30, cuda: 2 ** 33, webgpu: 2 ** 31 } as const;
/** More together gain nothing. */
const MOST_TOGETHER = 128;

/** Share of a window that comes from the text which it continues. */
const PROMPT_SHARE = 1 / 4;

/**
 * Samples windows from a model at temperature 1, so that their tokens are what the model thinks comes next (Liu et al.,
 * LLM-QAT, arXiv 2305.17888): continuations of pieces of a text, which stay near its subjects, or else from a first token
 * drawn uniformly from the vocabulary. End-of-sequence tokens do not end a window. The whole model is in use meanwhile, as in
 * any generation.
 *
 * @returns `count` windows of `length` token ids; the same for the same seed and provider.
 * @throws {RangeError} when the windows do not fit the model's context.
 */
export async function selfText(model: LanguageModel, options: SelfTextOptions): Promise<Int32Array[]> {
  const { count, length, seed, text = [], signal } = options;
  const { runtime, cacheBytes } = model.decoder;
  const fitting = Math.floor(CACHE_BYTES[runtime.provider] / (2 * cacheBytes * length));
  const batch = options.batch ?? Math.max(1, Math.min(MOST_TOGETHER, fitting));
  const random = seededRandom(seed);
  const below = (bound: number) => Math.floor(random() * bound);
  const prompt = (): number[] => {
    if (text.length === 0) return [below(model.vocabularySize)];
    const window = text[below(text.length)], size = Math.max(1, Math.floor(length * PROMPT_SHARE));
    const start = below(window.length - size + 1);
    return [...window.subarray(start, start + size)];
  };
  const windows: Int32Array[] = [];
  while (windows.length < count) {
    const prompts = Array.from({ length: Math.min(batch, count - windows.length) }, prompt);
    const given = prompts[0].length;
    const made = prompts.map((tokens) => {
      const window = new Int32Array(length);
      window.set(tokens);
      return window;
    });
    const settings = {
      temperature: 1,
      maxTokens: length - given,
      ignoreEos: true,
      seed: (seed + windows.length) >>> 0,
      signal,
    };
    let at = given;
    for await (const tokens of generateBatch(model, prompts, settings)) {
      tokens.forEach((token, index) => made[index][at] = token!);
      at++;
    }
    windows.push(...made);
    options.progress?.(windows.length, count);
  }
  return windows;
}
