/**
 * Token ids to text, one at a time, without ever writing half a character.
 *
 * @module
 */
import type { TextTokenizer } from "./tokenizer.ts";

/** What decoders put for bytes that are not (yet) UTF-8. */
const REPLACEMENT = "\uFFFD";
/** A UTF-8 character has at most 4 bytes, so at most 3 replacement characters can still become a real one. */
const MAX_HELD = 3;
/** Tokens before the pending ones that are decoded with them: decoders look at their neighbours. */
const CONTEXT_TOKENS = 8;
/** Tokens kept undecided before they are taken as they are: bounds the work for endless invalid bytes. */
const MAX_PENDING = 32;

/** Turns a stream of ids into a stream of text. */
export interface Detokenizer {
  /** Text that became certain with this token; `""` while a character is incomplete. */
  push(id: number): string;
  /** The rest, without a character that never became complete. */
  end(): string;
}

/**
 * Makes a detokenizer. The concatenated pieces equal `tokenizer.decode` of all ids (given the context), up to an
 * incomplete character at the very end.
 *
 * @param context Ids before the stream, e.g. the prompt's: decoders drop a leading space only at the very beginning.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { detokenizer } from "./detokenizer.ts";
 *
 * // A tokenizer whose ids are bytes: "é" takes two.
 * const decode = (ids: readonly number[]) => new TextDecoder().decode(Uint8Array.from(ids));
 * const stream = detokenizer({ decode });
 * assertEquals([0xc3, 0xa9, 0x21].map((id) => stream.push(id)), ["", "é", "!"]);
 * ```
 */
export function detokenizer(tokenizer: Pick<TextTokenizer, "decode">, context: readonly number[] = []): Detokenizer {
  let before = context.slice(-CONTEXT_TOKENS);
  let beforeText = tokenizer.decode(before);
  let pending: number[] = [];
  let written = 0; // characters of the pending tokens' text that were handed out

  const pendingText = (): string => {
    const text = tokenizer.decode([...before, ...pending]);
    return text.slice(commonPrefix(beforeText, text));
  };
  return {
    push(id) {
      pending.push(id);
      const text = pendingText();
      let end = text.length;
      while (end > 0 && text.length - end < MAX_HELD && text[end - 1] === REPLACEMENT) end--;
      if (pending.length >= MAX_PENDING) end = text.length;
      const piece = text.slice(written, end);
      written = Math.max(written, end);
      if (end === text.length) {
        before = [...before, ...pending].slice(-CONTEXT_TOKENS);
        beforeText = tokenizer.decode(before);
        pending = [];
        written = 0;
      }
      return piece;
    },
    end() {
      const piece = pendingText().slice(written);
      pending = [];
      written = 0;
      return piece.replace(/\uFFFD+$/, "");
    },
  };
}

/** Length of the common beginning; all of `a` in the ordinary case. */
function commonPrefix(a: string, b: string): number {
  if (b.startsWith(a)) return a.length;
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}
