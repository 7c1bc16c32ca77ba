/**
 * Text generation: one token after the other, streamed.
 *
 * @module
 */
import type { Tensor } from "../../kernels/runtime/types.ts";
import { chooseGraph } from "./choose_graph.ts";
import { detokenizer } from "./detokenizer.ts";
import type { LanguageModel } from "./language_model.ts";
import { lastRowGraph } from "./last_row_graph.ts";
import { checkSampling, requireFinite, sampleToken, type SamplingOptions, seededRandom } from "./sample.ts";

/** How a text is generated. */
export interface GenerateOptions extends SamplingOptions {
  /** Most tokens to generate. Default: 256, or what the context still holds. */
  readonly maxTokens?: number;
  /** Seed of sampling, 32 bits. Default 0. */
  readonly seed?: number;
  /** Go on after an end-of-sequence token. Default false. */
  readonly ignoreEos?: boolean;
  readonly signal?: AbortSignal;
}

/** One generated token. */
export interface GeneratedToken {
  readonly token: number;
  /** Text that became certain with it; `""` for special tokens and halves of characters. */
  readonly text: string;
}

/** Why a text ended: an end-of-sequence token, or the number of tokens asked for. */
export type FinishReason = "eos" | "length";

const DEFAULT_MAX_TOKENS = 256;

/**
 * Continues a prompt.
 *
 * @param model An opened model.
 * @param prompt Token ids, at least one.
 * @returns Tokens as they come; the end-of-sequence token is not among them. The generator's return value says why it ended.
 * @throws {RangeError} when prompt and new tokens do not fit the context, or an option is out of range.
 */
export async function* generate(
  model: LanguageModel,
  prompt: readonly number[],
  options: GenerateOptions = {},
): AsyncGenerator<GeneratedToken, FinishReason> {
  const stream = detokenizer(await model.tokenizer(), prompt);
  for await (const [token] of generateBatch(model, [prompt], options)) {
    if (token === undefined) {
      const text = stream.end();
      if (text !== "") yield { token: model.eos[0], text };
      return "eos";
    }
    yield { token, text: stream.push(token) };
  }
  return "length";
}

/**
 * Continues several prompts of any lengths at once, padded on the left.
 *
 * @param prompts Token ids, at least one each.
 * @returns For every step one token a prompt; `undefined` for prompts whose text has ended. Ends when all have.
 * @throws {RangeError} when the longest prompt and new tokens do not fit the context, or an option is out of range.
 */
export async function* generateBatch(
  model: LanguageModel,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions = {},
): AsyncGenerator<(number | undefined)[]> {
  checkSampling(options);
  const steps = stepsToTake(model, prompts, options.maxTokens);
  const ends = new Set(options.ignoreEos ? [] : model.eos);
  const random = prompts.map((_, index) => seededRandom((options.seed ?? 0) + index));
  const seen = prompts.map((prompt) => new Set(prompt));
  await using choice = await openChoice(model, options);
  using state = model.decoder.start(prompts.length);

  let done = prompts.map(() => false);
  let next = new Int32Array(prompts.length);
  for (let step = 0; step < steps; step++) {
    options.signal?.throwIfAborted();
    using logits = step === 0
      ? await state.prefill(prompts, options.signal)
      : await state.append(next, undefined, options.signal);
    next = await choice.choose(logits, seen, random);
    done = done.map((was, index) => was || ends.has(next[index]));
    next.forEach((token, index) => seen[index].add(token));
    yield Array.from(next, (token, index) => done[index] ? undefined : token);
    if (done.every(Boolean)) return;
  }
}

/** Chooses the next token of every sequence. */
interface Choice extends AsyncDisposable {
  choose(
    logits: Tensor,
    seen: readonly ReadonlySet<number>[],
    random: readonly (() => number)[],
  ): Promise<Int32Array<ArrayBuffer>>;
}

/** On the device, unless the options need a row of logits in JavaScript. */
function openChoice(model: LanguageModel, options: SamplingOptions): Promise<Choice> {
  const { topK = 0, topP = 1, minP = 0, repetitionPenalty = 1 } = options;
  return topK === 0 && topP === 1 && minP === 0 && repetitionPenalty === 1
    ? choiceOnDevice(model, options.temperature ?? 0)
    : choiceInRows(model, options);
}

async function choiceOnDevice(model: LanguageModel, temperature: number): Promise<Choice> {
  const { runtime, vocabularySize } = model.decoder, draws = temperature > 0;
  const session = await runtime.load(chooseGraph(logitsDType(model), vocabularySize, draws), {
    name: "choice of tokens",
    // Threads of its own would spin beside the decoder's, and it is short.
    threads: 1,
    tf32: false,
  });
  return {
    async choose(logits, _seen, random) {
      using own = new DisposableStack();
      const scalars = (values: readonly number[], shape: readonly number[]) =>
        own.use(runtime.tensor("float32", Float32Array.from(values), shape));
      const { token, largest } = await session.run({
        logits,
        ...(draws
          ? {
            uniform: scalars(random.map((each) => each()), [random.length, 1]),
            temperature: scalars([temperature], []),
          }
          : {}),
      });
      own.use(token);
      own.use(largest);
      requireFinite(await largest.read() as Float32Array);
      return Int32Array.from(await token.read() as BigInt64Array, Number);
    },
    [Symbol.asyncDispose]: () => session[Symbol.asyncDispose](),
  };
}

async function choiceInRows(model: LanguageModel, options: SamplingOptions): Promise<Choice> {
  const { runtime, vocabularySize } = model.decoder;
  const session = await runtime.load(lastRowGraph(logitsDType(model)), { name: "last row of logits" });
  return {
    async choose(logits, seen, random) {
      const { row } = await session.run({ logits });
      const values = await row.read() as Float32Array;
      row[Symbol.dispose]();
      return Int32Array.from(random, (each, index) => {
        const start = index * vocabularySize;
        return sampleToken(values.slice(start, start + vocabularySize), options, seen[index], each);
      });
    },
    [Symbol.asyncDispose]: () => session[Symbol.asyncDispose](),
  };
}

function stepsToTake(model: LanguageModel, prompts: readonly (readonly number[])[], maxTokens?: number): number {
  if (maxTokens !== undefined && !(Number.isInteger(maxTokens) && maxTokens >= 1)) {
    throw new RangeError(`Cannot generate ${maxTokens} tokens: it must be a whole number, 1 or more`);
  }
  if (prompts.some((prompt) => prompt.length === 0)) {
    throw new RangeError("Cannot generate from an empty prompt: give at least one token");
  }
  const longest = Math.max(...prompts.map((prompt) => prompt.length));
  const room = model.contextLength - longest;
  if (room < 1 || (maxTokens ?? 1) > room) {
    const wanted = maxTokens === undefined ? "" : ` and ${maxTokens} new ones`;
    throw new RangeError(
      `Cannot fit a prompt of ${longest} tokens${wanted} into the context of ${model.contextLength}: ` +
        (room < 1 ? "shorten the prompt" : `at most ${room} new tokens fit`),
    );
  }
  return maxTokens ?? Math.min(DEFAULT_MAX_TOKENS, room);
}

/** Type of the model's logits. */
function logitsDType(model: LanguageModel): "float32" | "float16" {
  const { dtype } = model.decoder.session.outputs.find(({ name }) => name === "logits")!;
  if (dtype !== "float32" && dtype !== "float16") {
    throw new TypeError(`Cannot choose tokens from logits of type ${dtype}`);
  }
  return dtype;
}
