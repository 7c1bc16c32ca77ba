/**
 * Regular expressions from other people's files: those whose matching can take exponential time are found before they run.
 *
 * @module
 */

/** Longest pattern: those of tokenizers stay below 2,000 characters. */
const MAX_PATTERN_CHARACTERS = 20_000;

/** A quantifier at `at`: its length and the most repetitions it allows; `undefined` where there is none. */
function quantifierAt(source: string, at: number): { readonly length: number; readonly most: number } | undefined {
  const [whole, braces, most] = source.slice(at).match(/^(?:[*+?]|(\{\d+(?:,(\d*))?\}))\??/) ?? [];
  if (whole === undefined) return undefined;
  if (braces === undefined) return { length: whole.length, most: whole.startsWith("?") ? 1 : Infinity };
  const exact = Number(braces.slice(1).match(/^\d+/)![0]);
  return { length: whole.length, most: most === undefined ? exact : most === "" ? Infinity : Number(most) };
}

/** Index behind the class that opens at `at`, or the end of the pattern. */
function classEnd(source: string, at: number): number {
  for (at++; at < source.length && source[at] !== "]"; at++) if (source[at] === "\\") at++;
  return at + 1;
}

/**
 * Why a pattern is refused, or `undefined` for one that may run. Refused is every group that is repeated and could itself
 * match the same text in several ways (it repeats, is optional inside, or has alternatives): backtracking through such a
 * group doubles with every character. No tokenizer in use has one. Patterns that pass take polynomial time.
 *
 * Source: Davis et al., "The Impact of Regular Expression Denial of Service in Practice" (ESEC/FSE 2018), star height and
 * alternation as causes.
 *
 * @example
 * ```ts
 * import { assert, assertEquals } from "@std/assert";
 * import { whyUnboundedRegex } from "./bounded_regex.ts";
 *
 * assertEquals(whyUnboundedRegex("'s|\\s?\\p{L}+|\\s+(?!\\S)"), undefined);
 * assert(whyUnboundedRegex("(a+)+$")!.includes("(a+)+"));
 * ```
 */
export function whyUnboundedRegex(source: string): string | undefined {
  if (source.length > MAX_PATTERN_CHARACTERS) {
    return `it has ${source.length} characters, and at most ${MAX_PATTERN_CHARACTERS} are read`;
  }
  interface Open {
    readonly start: number;
    /** Whether what is inside can match one text in several ways. */
    ambiguous: boolean;
  }
  const stack: Open[] = [{ start: 0, ambiguous: false }];
  for (let at = 0; at < source.length;) {
    const character = source[at];
    if (character === "(") {
      stack.push({ start: at, ambiguous: false });
      at += /^\(\?(?:[a-z-]*:|<?[=!]|<\w+>)/.exec(source.slice(at))?.[0].length ?? 1;
      continue;
    }
    if (character === "|") {
      stack.at(-1)!.ambiguous = true;
      at++;
      continue;
    }
    const closed = character === ")" && stack.length > 1 ? stack.pop() : undefined;
    at = character === "[" ? classEnd(source, at) : character === "\\" ? at + 2 : at + 1;
    const quantifier = quantifierAt(source, at);
    at += quantifier?.length ?? 0;
    if (closed?.ambiguous && quantifier !== undefined && quantifier.most > 1) {
      return `it repeats the group ${
        source.slice(closed.start, at).slice(0, 80)
      }, which can match one text in several ways`;
    }
    if (closed?.ambiguous || (quantifier !== undefined && quantifier.length > 0)) stack.at(-1)!.ambiguous = true;
  }
  return undefined;
}
