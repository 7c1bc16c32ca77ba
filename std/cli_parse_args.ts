/**
 * `@std/cli/parse-args` for machines that cannot reach JSR: the same options and results, except that dots in names do
 * not nest. Results depend on the arguments alone.
 *
 * @module
 */

/** Result of {@linkcode parseArgs}: flags by name (and by alias), positional arguments in `_`. */
export type Args<
  B extends string = never,
  S extends string = never,
  C extends string = never,
  N extends string = never,
> =
  & { _: (string | number)[]; "--"?: string[] }
  & { [K in Exclude<B, C> | Exclude<N, S | C>]: boolean }
  & { [K in Exclude<S, C | "_">]: string | undefined }
  & { [K in C]: string[] }
  // deno-lint-ignore no-explicit-any -- as in @std/cli: flags that were not declared can be anything
  & { [name: string]: any };

/** Options of {@linkcode parseArgs}. */
export interface ParseOptions<
  B extends string = string,
  S extends string = string,
  C extends string = string,
  N extends string = string,
> {
  /** Names that take no value; they are `false` when absent. `true`: every `--flag` without `=` takes none. */
  boolean?: boolean | B | readonly B[];
  /** Names whose value is always a string; `"_"` keeps positional arguments strings too. */
  string?: S | readonly S[];
  /** Names that may be given many times; the result is an array. */
  collect?: C | readonly C[];
  /** Names for which `--no-name` means `false`. */
  negatable?: N | readonly N[];
  /** Values of absent names. */
  default?: Record<string, unknown>;
  /** Other spellings; every spelling gets the value. */
  alias?: Record<string, string | readonly string[]>;
  /** Put everything after the first positional argument into `_`. Default false. */
  stopEarly?: boolean;
  /** Put what follows `--` into `"--"` instead of `_`. Default false. */
  "--"?: boolean;
  /** Called for every argument that was not declared; returning `false` leaves it out. */
  unknown?: (arg: string, key?: string, value?: unknown) => unknown;
}

const NUMBER = /^(?:0x[0-9a-f]+|[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?)$/i;
const list = (value: boolean | string | readonly string[] | undefined): readonly string[] =>
  value === undefined || typeof value === "boolean" ? [] : typeof value === "string" ? [value] : value;

/** For every spelling of a name, all the others. */
function spellings(alias: ParseOptions["alias"] = {}): ReadonlyMap<string, readonly string[]> {
  const others = new Map<string, readonly string[]>();
  for (const [name, more] of Object.entries(alias)) {
    const all = [name, ...list(more)];
    for (const one of all) others.set(one, all.filter((other) => other !== one));
  }
  return others;
}

/**
 * Parses command-line arguments the way minimist does.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { parseArgs } from "@std/cli/parse-args";
 *
 * const args = parseArgs(["plan", "--bits", "2", "--no-color"], { string: ["bits"], negatable: ["color"] });
 * assertEquals(args, { _: ["plan"], bits: "2", color: false });
 * ```
 */
export function parseArgs<
  B extends string = never,
  S extends string = never,
  C extends string = never,
  N extends string = never,
>(args: readonly string[], options: ParseOptions<B, S, C, N> = {}): Args<B, S, C, N> {
  const others = spellings(options.alias);
  const everySpelling = (names: readonly string[]) =>
    new Set(names.flatMap((name) => [name, ...(others.get(name) ?? [])]));
  const booleans = everySpelling(list(options.boolean));
  const strings = everySpelling(list(options.string));
  const collected = everySpelling(list(options.collect));
  const negatables = everySpelling(list(options.negatable));
  const allBoolean = options.boolean === true;
  const defaults = options.default ?? {};
  const known = (name: string) =>
    booleans.has(name) || strings.has(name) || collected.has(name) || negatables.has(name) || others.has(name) ||
    Object.hasOwn(defaults, name);

  const result: Record<string, unknown> = Object.create(null);
  const positional: (string | number)[] = [];
  const convert = (value: unknown, asString: boolean) =>
    !asString && typeof value === "string" && NUMBER.test(value) ? Number(value) : value;

  const store = (name: string, value: unknown) => {
    for (const one of [name, ...(others.get(name) ?? [])]) {
      if (collected.has(one)) {
        (result[one] = (result[one] as unknown[] | undefined) ?? [], (result[one] as unknown[]).push(value));
      } else result[one] = value;
    }
  };
  const set = (name: string, value: unknown, arg: string) => {
    if (
      options.unknown && !known(name) && !(allBoolean && value === true) && options.unknown(arg, name, value) === false
    ) {
      return;
    }
    store(name, convert(value, strings.has(name)));
  };
  const addPositional = (arg: string) => {
    if (options.unknown && options.unknown(arg) === false) return;
    positional.push(convert(arg, strings.has("_")) as string | number);
  };
  /** Whether `arg` can be the value of the flag before it. */
  const isValue = (arg: string | undefined) =>
    arg !== undefined && (!arg.startsWith("-") || NUMBER.test(arg) || arg === "-");
  const booleanText = (arg: string | undefined) => arg === "true" || arg === "false";

  const separator = args.indexOf("--");
  const before = separator < 0 ? args : args.slice(0, separator);
  const after = separator < 0 ? [] : args.slice(separator + 1);

  for (let i = 0; i < before.length; i++) {
    const arg = before[i];
    const takeNext = (name: string): unknown => {
      const next = before[i + 1];
      const isBoolean = booleans.has(name) || (allBoolean && !strings.has(name));
      if (isBoolean) return booleanText(next) ? (i++, next === "true") : true;
      if (isValue(next)) return (i++, next);
      return strings.has(name) ? "" : true;
    };
    if (arg.startsWith("--") && arg.length > 2) {
      const equals = arg.indexOf("=");
      const name = arg.slice(2, equals < 0 ? undefined : equals);
      if (equals >= 0) {
        const text = arg.slice(equals + 1);
        set(name, booleans.has(name) ? text !== "false" : text, arg);
      } else if (name.startsWith("no-") && negatables.has(name.slice(3))) {
        set(name.slice(3), false, arg);
      } else {
        set(name, takeNext(name), arg);
      }
    } else if (/^-[^-]/.test(arg) && !(NUMBER.test(arg) && !known(arg[1]))) {
      const equals = arg.indexOf("=");
      const letters = [...arg.slice(1, equals < 0 ? undefined : equals)];
      // "-n5" gives 5 to n unless n is boolean; "-abc" sets a, b and c.
      if (equals < 0 && letters.length > 1 && !booleans.has(letters[0]) && NUMBER.test(arg.slice(2))) {
        set(letters[0], arg.slice(2), arg);
        continue;
      }
      letters.slice(0, -1).forEach((letter) => set(letter, strings.has(letter) ? "" : true, arg));
      const last = letters.at(-1)!;
      if (equals < 0) set(last, takeNext(last), arg);
      else set(last, booleans.has(last) ? arg.slice(equals + 1) !== "false" : arg.slice(equals + 1), arg);
    } else {
      addPositional(arg);
      if (options.stopEarly) {
        before.slice(i + 1).forEach((rest) => positional.push(convert(rest, strings.has("_")) as string | number));
        break;
      }
    }
  }

  for (const [name, value] of Object.entries(defaults)) {
    for (const one of [name, ...(others.get(name) ?? [])]) if (!(one in result)) result[one] = value;
  }
  for (const name of booleans) if (!(name in result)) result[name] = collected.has(name) ? [] : false;
  for (const name of negatables) if (!(name in result) && booleans.has(name)) result[name] = false;
  for (const name of collected) if (!(name in result)) result[name] = [];
  if (options["--"]) result["--"] = after;
  else after.forEach((arg) => positional.push(convert(arg, strings.has("_")) as string | number));
  return { ...result, _: positional } as Args<B, S, C, N>;
}
