/**
 * The model's own text as calibration data: it covers what the model can say, not only what a file says.
 *
 * @module
 */
import type { Runtime } from "../../kernels/runtime/types.ts";
import { seededRandom } from "../evaluate/sample.ts";
import type { ModelDescription } from "../model/types.ts";
import { bytesFor } from "./device_memory.ts";
import type { KeptText } from "./kept_text.ts";
import { samplerBytes, type WindowSampler } from "./window_sampler.ts";

/** What is generated. */
export interface SelfTextOptions {
  /** First tokens are below it where no text is given. */
  readonly vocabularySize: number;
  /** Windows wanted. */
  readonly count: number;
  /** Tokens a window. */
  readonly length: number;
  /** Windows of a text of that length: each window then continues a piece of it, a quarter as long. Default: none. */
  readonly text?: readonly Int32Array[];
  readonly seed: number;
  /** Windows generated together, see {@linkcode windowsTogether}: rounding, and so the text, depends on it. */
  readonly batch: number;
  /** Where batches are looked for before they are made, and kept as soon as they are. */
  readonly keep?: KeptText;
  readonly signal?: AbortSignal;
  readonly progress?: (done: number, total: number) => void;
}

/**
 * Type that the model computes its own text in: on CUDA float16, which tensor cores and flash attention take, and whose caches are half as
 * large. The text stays the model's: float32 finds it as likely as its own (see plugins/reconstruction/README.md).
 */
export const OWN_TEXT_DTYPE = { cpu: "f32", cuda: "f16", webgpu: "f32" } as const;

/** More together gain nothing. */
const MOST_TOGETHER = { cpu: 128, cuda: 1024, webgpu: 128 } as const;

/** Share of a window that comes from the text which it continues. */
const PROMPT_SHARE = 1 / 4;

/**
 * How many windows are generated together: as many as their caches fit, and in batches of nearly one size.
 *
 * @param length Tokens a window.
 * @param count Windows wanted in all.
 */
export function windowsTogether(
  runtime: Pick<Runtime, "provider" | "deviceMemory">,
  model: ModelDescription,
  length: number,
  count: number,
): number {
  const fitting = Math.floor(
    bytesFor(runtime, "generation caches") / samplerBytes(model, length, OWN_TEXT_DTYPE[runtime.provider]),
  );
  const most = Math.max(1, Math.min(MOST_TOGETHER[runtime.provider], fitting, count));
  return Math.ceil(count / Math.ceil(count / most));
}

/**
 * Samples windows from a model, so that their tokens are what the model thinks comes next (Liu et al.,
 * LLM-QAT, arXiv 2305.17888): continuations of pieces of a text, which stay near its subjects, or else from a first token
 * drawn uniformly from the vocabulary. End-of-sequence tokens do not end a window. The whole model is in use meanwhile, as in
 * any generation.
 *
 * @param open Opens the model, or gives the opened one; not called where all batches were kept.
 * @returns `count` windows of `length` token ids; the same for the same seed and provider.
 * @throws {RangeError} when the windows do not fit the model's context.
 */
export async function selfText(
  open: () => Promise<WindowSampler>,
  options: SelfTextOptions,
): Promise<Int32Array[]> {
  const { count, length, seed, batch, keep, text = [], signal, vocabularySize } = options;
  const random = seededRandom(seed);
  const below = (bound: number) => Math.floor(random() * bound);
  const prompt = (): number[] => {
    if (text.length === 0) return [below(vocabularySize)];
    const window = text[below(text.length)], size = Math.max(1, Math.floor(length * PROMPT_SHARE));
    const start = below(window.length - size + 1);
    return [...window.subarray(start, start + size)];
  };
  const windows: Int32Array[] = [];
  while (windows.length < count) {
    const prompts = Array.from({ length: Math.min(batch, count - windows.length) }, prompt);
    const described = { prompts, length, seed: (seed + windows.length) >>> 0 };
    let made = await keep?.read(described);
    if (made === undefined) {
      made = await (await open()).write(described, signal);
      await keep?.write(described, made);
    }
    windows.push(...made);
    options.progress?.(windows.length, count);
  }
  return windows;
}
