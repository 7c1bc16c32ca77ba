/**
 * A model's tokenizer: text to token ids and back, from `tokenizer.json` and `tokenizer_config.json`.
 *
 * @module
 */
import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import { openFolder, readJsonObject } from "../checkpoint/folder.ts";
import { checkTokenizer } from "./tokenizer_check.ts";

/** Gemma 3's tokenizer.json has 33 MB, Llama 4's 28 MB. */
const MAX_TOKENIZER_BYTES = 128 * 2 ** 20;

/** Text to token ids and back. */
export interface TextTokenizer {
  /** Directory that it was read from. */
  readonly directory: string;
  /** Parsed tokenizer_config.json; empty where the file is absent. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Number of ids, added tokens included. */
  readonly size: number;
  /** Special tokens by their field in tokenizer_config.json, e.g. `bos_token` → `"<s>"`. */
  readonly specialTokens: Readonly<Record<string, string>>;
  /** @param options `specials`: add what the post-processor adds (often a beginning-of-sequence token). Default false. */
  encode(text: string, options?: { readonly specials?: boolean }): number[];
  /** @param options `specials`: write special tokens out too. Default false. */
  decode(ids: readonly number[], options?: { readonly specials?: boolean }): string;
  /** Id of a token spelled exactly so, e.g. `"<|im_end|>"`. */
  id(token: string): number | undefined;
}

/**
 * Loads the tokenizer of a model directory.
 *
 * @param directory A Hugging Face directory, or an export of one.
 * @throws {Deno.errors.NotFound} when the directory has no tokenizer.json.
 * @throws {RangeError} when a file is larger than any real tokenizer's.
 * @throws {SyntaxError} when a file is not JSON.
 * @throws {TypeError} when tokenizer.json is of a kind that `@huggingface/tokenizers` cannot run.
 */
export async function loadTokenizer(directory: string): Promise<TextTokenizer> {
  const folder = await openFolder(directory);
  const definition = await readJsonObject(folder, "tokenizer.json", MAX_TOKENIZER_BYTES);
  if (definition === undefined) {
    throw new Deno.errors.NotFound(
      `Cannot find "${join(directory, "tokenizer.json")}": text needs a tokenizer; copy the file from the original ` +
        `model, or write it with transformers' AutoTokenizer.from_pretrained(…).save_pretrained(…)`,
    );
  }
  const config = await readJsonObject(folder, "tokenizer_config.json") ?? {};
  const path = join(directory, "tokenizer.json");
  checkTokenizer(definition, path);
  /** Runs the library, whose own errors do not name the file. */
  const clearly = <T>(what: string, body: () => T): T => {
    try {
      return body();
    } catch (cause) {
      throw new TypeError(`Cannot ${what} with "${path}": ${(cause as Error).message}; replace the file`, { cause });
    }
  };
  const tokenizer = clearly("make a tokenizer", () => new Tokenizer(definition, config));
  return {
    directory,
    config,
    size: tokenizer.get_vocab(true).size,
    specialTokens: specialTokensOf(config),
    encode(text, options) {
      const add_special_tokens = options?.specials ?? false;
      const { ids } = clearly("encode text", () => tokenizer.encode(text, { add_special_tokens }));
      if (!ids.every((id) => Number.isInteger(id))) {
        throw new TypeError(
          `Cannot encode text with "${path}" as it has no unknown token for what it lacks: replace the file`,
        );
      }
      return ids;
    },
    decode: (ids, options) =>
      ids.length === 0 ? "" : clearly("decode ids", () =>
        tokenizer.decode(ids.slice(), {
          skip_special_tokens: !(options?.specials ?? false),
          clean_up_tokenization_spaces: false,
        })),
    id: (token) => tokenizer.token_to_id(token),
  };
}

/** Fields `*_token` of tokenizer_config.json, each a string or `{ content }`. */
function specialTokensOf(config: Readonly<Record<string, unknown>>): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const [field, value] of Object.entries(config)) {
    if (!field.endsWith("_token")) continue;
    if (typeof value === "string") tokens[field] = value;
    else if (typeof value === "object" && value !== null && "content" in value && typeof value.content === "string") {
      tokens[field] = value.content;
    }
  }
  return tokens;
}
