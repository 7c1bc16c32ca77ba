/**
 * A strict JSON reader for exactly what safetensors headers contain: objects, strings and arrays of whole numbers.
 * Unlike `JSON.parse` it sees duplicate keys, never recurses, and refuses numbers that are not whole and exact.
 *
 * @module
 */

/** A position in a header. Every method skips white space, consumes one value, and throws a SyntaxError otherwise. */
export interface HeaderCursor {
  /** Reads `{…}`; `field` is called after each key and must consume its value. */
  object(field: (key: string) => void): void;
  string(): string;
  /** Reads `[…]` of at most `limit` integers in 0 … 2^53−1. */
  integers(limit: number): number[];
  /** Checks that only white space is left. */
  end(): void;
  fail(what: string): never;
}

/**
 * Starts reading `json`.
 *
 * @throws {SyntaxError} when it is not UTF-8.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { createHeaderCursor } from "./header_cursor.ts";
 *
 * const cursor = createHeaderCursor(new TextEncoder().encode("[1, 2] "), "a.safetensors");
 * assertEquals(cursor.integers(2), [1, 2]);
 * cursor.end();
 * ```
 */
export function createHeaderCursor(json: Uint8Array, file: string): HeaderCursor {
  const text = decodeUtf8(json, file);
  let at = 0;

  const fail = (what: string): never => {
    throw new SyntaxError(`Cannot read the header of ${file} as ${what}: current position is ${at} of ${text.length}`);
  };
  const peek = (): string => {
    for (let code = text.charCodeAt(at); code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09;) {
      code = text.charCodeAt(++at);
    }
    return text[at] ?? "its end";
  };
  const take = (wanted: string): void => {
    const found = peek();
    if (found !== wanted) fail(`${JSON.stringify(wanted)} is expected instead of ${JSON.stringify(found)}`);
    at++;
  };
  /** Comma-separated items up to `close`. */
  const list = (close: string, item: () => void): void => {
    if (peek() === close) return void at++;
    while (true) {
      item();
      if (peek() === close) return void at++;
      take(",");
    }
  };
  const string = (): string => {
    take('"');
    const start = at;
    let escaped = false;
    for (;; at++) {
      const code = text.charCodeAt(at);
      if (code === 0x22) break;
      if (code === 0x5c) {
        escaped = true;
        at++;
      }
      // NaN (past the end) is neither.
      if (!(text.charCodeAt(at) >= 0x20)) fail("a string is not closed, or holds a control character");
    }
    at++;
    if (!escaped) return text.slice(start, at - 1);
    try {
      return JSON.parse(text.slice(start - 1, at));
    } catch {
      return fail("a string has an unknown escape");
    }
  };
  const integer = (): number => {
    peek();
    let value = 0;
    const start = at;
    for (let digit = text.charCodeAt(at) - 0x30; digit >= 0 && digit <= 9; digit = text.charCodeAt(++at) - 0x30) {
      value = value * 10 + digit;
      if (value > Number.MAX_SAFE_INTEGER) fail("a number is beyond 2^53");
    }
    if (at === start) fail("a whole number is expected");
    if (at > start + 1 && text[start] === "0") fail("a number starts with 0");
    return value;
  };

  return {
    object(field) {
      take("{");
      list("}", () => {
        const key = string();
        take(":");
        field(key);
      });
    },
    string,
    integers(limit) {
      const values: number[] = [];
      take("[");
      list("]", () => {
        if (values.length === limit) fail(`an array has more than ${limit} numbers`);
        values.push(integer());
      });
      return values;
    },
    end() {
      peek();
      if (at < text.length) fail("something follows the closing brace");
    },
    fail,
  };
}

function decodeUtf8(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new SyntaxError(`Cannot read the header of ${file} as UTF-8: download it again`, { cause });
  }
}
