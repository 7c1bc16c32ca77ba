/**
 * What generation and evaluation need of a model.
 *
 * @module
 */
import type { Decoder } from "./decoder_session.ts";
import type { TextTokenizer } from "./tokenizer.ts";

/** A decoder ready to run, with its tokenizer at hand. */
export interface LanguageModel extends AsyncDisposable {
  /** The path that it was opened by. */
  readonly path: string;
  /** Path of the graph that runs. */
  readonly graph: string;
  /** Most tokens of one sequence; `Infinity` where config.json does not say. */
  readonly contextLength: number;
  readonly vocabularySize: number;
  /** All ids that end a text, from generation_config.json and config.json. */
  readonly eos: readonly number[];
  readonly decoder: Decoder;
  /**
   * Loads the tokenizer at the first call.
   *
   * @throws {Deno.errors.NotFound} when the directory has none.
   */
  tokenizer(): Promise<TextTokenizer>;
}
