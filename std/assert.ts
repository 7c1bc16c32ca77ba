/**
 * `@std/assert` for machines that cannot reach JSR: the subset that dbf's tests use, with the same signatures.
 * `deno.jsr.json` maps the same name to the original.
 *
 * @module
 */
import nodeAssert from "node:assert";
import { equal } from "./equal.ts";

export { equal } from "./equal.ts";

/** Thrown by every failed assertion. */
export class AssertionError extends Error {
  /** Makes an error with `message`. */
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "AssertionError";
  }
}

// deno-lint-ignore no-explicit-any -- constructor constraint, as in @std/assert
type AnyConstructor = abstract new (...args: any[]) => any;
// deno-lint-ignore no-explicit-any -- as above, for classes that can be thrown
type ErrorConstructorLike<E extends Error> = abstract new (...args: any[]) => E;

const MAX_SHOWN_CHARACTERS = 4000; // a typed array of a weight would flood the terminal

function show(value: unknown): string {
  const text = Deno.inspect(value, {
    depth: 8,
    sorted: true,
    compact: true,
    trailingComma: false,
    strAbbreviateSize: MAX_SHOWN_CHARACTERS,
  });
  return text.length > MAX_SHOWN_CHARACTERS ? text.slice(0, MAX_SHOWN_CHARACTERS) + "…" : text;
}

function raise(what: string, message?: string): never {
  throw new AssertionError(message === undefined ? what : `${what.replace(/\.$/, "")}: ${message}`);
}

/** First place where two arrays differ, for the error text. */
function firstDifference(actual: unknown, expected: unknown): string {
  const isList = (value: unknown): value is ArrayLike<unknown> =>
    Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));
  if (!isList(actual) || !isList(expected)) return "";
  if (actual.length !== expected.length) return `\nlengths: ${actual.length} and ${expected.length}`;
  for (let i = 0; i < actual.length; i++) {
    if (!equal(actual[i], expected[i])) {
      return `\nfirst difference at [${i}]: ${show(actual[i])} and ${show(expected[i])}`;
    }
  }
  return "";
}

/** Asserts that `expr` is truthy. */
export function assert(expr: unknown, msg = ""): asserts expr {
  if (!expr) throw new AssertionError(msg);
}

/** Asserts that `expr` is falsy. */
export function assertFalse(expr: unknown, msg = ""): void {
  if (expr) throw new AssertionError(msg);
}

/** Asserts deep equality, as {@linkcode equal} defines it. */
export function assertEquals<T>(actual: T, expected: T, msg?: string): void {
  if (equal(actual, expected)) return;
  const difference = firstDifference(actual, expected);
  raise(`Values are not equal.\nactual:   ${show(actual)}\nexpected: ${show(expected)}${difference}`, msg);
}

/** Asserts that two values are not deeply equal. */
export function assertNotEquals<T>(actual: T, expected: T, msg?: string): void {
  if (equal(actual, expected)) raise(`Expected values to differ, both are ${show(actual)}.`, msg);
}

/** Asserts `Object.is(actual, expected)`. */
export function assertStrictEquals<T>(actual: unknown, expected: T, msg?: string): asserts actual is T {
  if (!Object.is(actual, expected)) {
    raise(`Values are not strictly equal.\nactual:   ${show(actual)}\nexpected: ${show(expected)}`, msg);
  }
}

/** Asserts that two values are not the same by `Object.is`. */
export function assertNotStrictEquals<T>(actual: T, expected: T, msg?: string): void {
  if (Object.is(actual, expected)) raise(`Expected values to be strictly unequal, both are ${show(actual)}.`, msg);
}

/** Asserts that two numbers differ by at most `tolerance`; the default is 1e-7 relative to `expected`. */
export function assertAlmostEquals(actual: number, expected: number, tolerance?: number, msg?: string): void {
  if (Object.is(actual, expected)) return;
  const bound = tolerance ?? (Number.isFinite(expected) ? Math.abs(expected * 1e-7) : 1e-7);
  const delta = Math.abs(expected - actual);
  if (delta <= bound) return;
  raise(`Expected ${actual} to be within ${bound} of ${expected}, but the difference is ${delta}.`, msg);
}

/** Asserts that `actual` is neither `null` nor `undefined`. */
export function assertExists<T>(actual: T, msg?: string): asserts actual is NonNullable<T> {
  if (actual === undefined || actual === null) raise(`Expected a value, got ${actual}.`, msg);
}

/** Asserts that `actual` matches `expected`. */
export function assertMatch(actual: string, expected: RegExp, msg?: string): void {
  if (actual.search(expected) < 0) raise(`Expected ${show(actual)} to match ${expected}.`, msg);
}

/** Asserts that `actual` does not match `expected`. */
export function assertNotMatch(actual: string, expected: RegExp, msg?: string): void {
  if (actual.search(expected) >= 0) raise(`Expected ${show(actual)} not to match ${expected}.`, msg);
}

/** Asserts that `actual` contains `expected`. */
export function assertStringIncludes(actual: string, expected: string, msg?: string): void {
  if (!actual.includes(expected)) raise(`Expected ${show(actual)} to contain ${show(expected)}.`, msg);
}

/** Asserts that every element of `expected` is deeply equal to some element of `actual`. */
export function assertArrayIncludes<T>(actual: ArrayLike<T>, expected: ArrayLike<T>, msg?: string): void {
  const missing = Array.from(expected).filter((value) => !Array.from(actual).some((other) => equal(value, other)));
  if (missing.length > 0) {
    raise(`Expected ${show(actual)} to include ${show(expected)}, missing: ${show(missing)}.`, msg);
  }
}

/** Asserts that `actual` contains the properties of `expected`, deeply. */
export function assertObjectMatch(
  actual: Record<PropertyKey, unknown>,
  expected: Record<PropertyKey, unknown>,
  msg?: string,
): void {
  try {
    nodeAssert.partialDeepStrictEqual(actual, expected);
  } catch (cause) {
    raise(`Expected ${show(actual)} to contain ${show(expected)}: ${(cause as Error).message}`, msg);
  }
}

/** Asserts that `actual` is an instance of `expectedType`. */
export function assertInstanceOf<T extends AnyConstructor>(
  actual: unknown,
  expectedType: T,
  msg?: string,
): asserts actual is InstanceType<T> {
  if (!(actual instanceof expectedType)) {
    raise(`Expected an instance of ${expectedType.name}, got ${show(actual)}.`, msg);
  }
}

/** Asserts `actual > expected`. */
export function assertGreater<T>(actual: T, expected: T, msg?: string): void {
  if (!(actual > expected)) raise(`Expected ${show(actual)} > ${show(expected)}.`, msg);
}

/** Asserts `actual >= expected`. */
export function assertGreaterOrEqual<T>(actual: T, expected: T, msg?: string): void {
  if (!(actual >= expected)) raise(`Expected ${show(actual)} >= ${show(expected)}.`, msg);
}

/** Asserts `actual < expected`. */
export function assertLess<T>(actual: T, expected: T, msg?: string): void {
  if (!(actual < expected)) raise(`Expected ${show(actual)} < ${show(expected)}.`, msg);
}

/** Asserts `actual <= expected`. */
export function assertLessOrEqual<T>(actual: T, expected: T, msg?: string): void {
  if (!(actual <= expected)) raise(`Expected ${show(actual)} <= ${show(expected)}.`, msg);
}

/** Asserts that `error` is an `ErrorClass` whose message contains `msgIncludes`. */
export function assertIsError<E extends Error = Error>(
  error: unknown,
  ErrorClass?: ErrorConstructorLike<E>,
  msgMatches?: string | RegExp,
  msg?: string,
): asserts error is E {
  if (!(error instanceof Error)) raise(`Expected an Error, got ${show(error)}.`, msg);
  if (ErrorClass !== undefined && !(error instanceof ErrorClass)) {
    raise(`Expected a ${ErrorClass.name}, got ${error.name}: ${error.message}`, msg);
  }
  if (msgMatches === undefined) return;
  const matches = typeof msgMatches === "string" ? error.message.includes(msgMatches) : msgMatches.test(error.message);
  if (!matches) raise(`Expected the error message to match ${show(msgMatches)}, got ${show(error.message)}.`, msg);
}

/** Asserts that `fn` throws; the value may be anything. */
export function assertThrows(fn: () => unknown, msg?: string): unknown;
/** Asserts that `fn` throws an `ErrorClass` whose message contains `msgIncludes`, and returns it. */
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  ErrorClass: ErrorConstructorLike<E>,
  msgIncludes?: string,
  msg?: string,
): E;
export function assertThrows<E extends Error>(
  fn: () => unknown,
  classOrMessage?: ErrorConstructorLike<E> | string,
  msgIncludes?: string,
  msg?: string,
): unknown {
  const ErrorClass = typeof classOrMessage === "function" ? classOrMessage : undefined;
  const message = typeof classOrMessage === "string" ? classOrMessage : msg;
  try {
    fn();
  } catch (error) {
    if (ErrorClass !== undefined) assertIsError(error, ErrorClass, msgIncludes, message);
    return error;
  }
  return raise("Expected the function to throw.", message);
}

/** Asserts that `fn` returns a promise that rejects; the value may be anything. */
export function assertRejects(fn: () => PromiseLike<unknown>, msg?: string): Promise<unknown>;
/** Asserts that the promise of `fn` rejects with an `ErrorClass` whose message contains `msgIncludes`, and resolves to it. */
export function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  ErrorClass: ErrorConstructorLike<E>,
  msgIncludes?: string,
  msg?: string,
): Promise<E>;
export async function assertRejects<E extends Error>(
  fn: () => PromiseLike<unknown>,
  classOrMessage?: ErrorConstructorLike<E> | string,
  msgIncludes?: string,
  msg?: string,
): Promise<unknown> {
  const ErrorClass = typeof classOrMessage === "function" ? classOrMessage : undefined;
  const message = typeof classOrMessage === "string" ? classOrMessage : msg;
  let promise: PromiseLike<unknown>;
  try {
    promise = fn();
  } catch (cause) {
    throw new AssertionError("Expected a rejected promise, but the function threw synchronously.", { cause });
  }
  try {
    await promise;
  } catch (error) {
    if (ErrorClass !== undefined) assertIsError(error, ErrorClass, msgIncludes, message);
    return error;
  }
  return raise("Expected the promise to reject.", message);
}

/** Fails. */
export function fail(msg?: string): never {
  raise("Failed assertion", msg);
}

/** Marks code that cannot run. */
export function unreachable(msg?: string): never {
  raise("Unreachable code was reached", msg);
}
