/**
 * Flags as data: parsing, checking and suggestions follow from one table a command.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { parseBytes } from "../recipe/units.ts";
import { usageError } from "./errors.ts";
import { closest } from "./suggest.ts";

/** What a flag takes. `list` may be given many times; `off` is written `--no-name` and is on by default. */
export type FlagKind = "text" | "number" | "integer" | "bytes" | "switch" | "off" | "list";

/** One flag. */
export interface Flag {
  readonly kind: FlagKind;
  /** Shown for the value in help, e.g. `"FILE"`. */
  readonly value?: string;
  readonly help: string;
  /** The only values allowed. */
  readonly choices?: readonly string[];
  /** Smallest number allowed; also for bytes. */
  readonly min?: number;
}

/** Flags by name, without dashes. */
export type FlagTable = Readonly<Record<string, Flag>>;

/** Checked values of the flags that were given. */
export interface FlagValues {
  /** Whether it was given at all. */
  has(name: string): boolean;
  text(name: string): string | undefined;
  /** A number, whole number or byte count. */
  number(name: string): number | undefined;
  list(name: string): readonly string[];
  /** Whether a switch is on. */
  on(name: string): boolean;
}

/** Flags of every command. */
export const COMMON_FLAGS: FlagTable = {
  json: { kind: "switch", help: "print one JSON document on stdout, and events as JSON lines on stderr" },
  help: { kind: "switch", help: "show this help" },
};

/**
 * Parses the arguments of one command.
 *
 * @param args Without the command's name.
 * @param table Its flags.
 * @param command Its name, for errors.
 * @throws {TypeError} with exit code 2: an unknown flag, a missing or wrong value.
 */
export function parseFlags(
  args: readonly string[],
  table: FlagTable,
  command: string,
): { readonly positional: readonly string[]; readonly flags: FlagValues } {
  const names = Object.keys(table);
  const of = (...kinds: FlagKind[]) => names.filter((name) => kinds.includes(table[name].kind));
  const parsed = parseArgs(args, {
    string: [...of("text", "number", "integer", "bytes", "list"), "_"],
    boolean: of("switch", "off"),
    negatable: of("off"),
    collect: of("list"),
    default: Object.fromEntries(of("off").map((name) => [name, true])),
    alias: { help: "h" },
    unknown: (arg, name) => {
      if (name === undefined) return true;
      throw unknownFlag(arg, names, table, command);
    },
  }) as Record<string, unknown> & { _: string[] };

  const numbers = new Map<string, number>();
  for (const name of names) {
    const flag = table[name];
    const value = parsed[name];
    for (const one of flag.kind === "list" ? value as string[] : [value]) {
      if (typeof one === "string" && one === "") {
        throw usageError(`Cannot use --${name} without a value: write --${name} ${flag.value ?? "VALUE"}`);
      }
    }
    if (typeof value !== "string") continue;
    if (flag.choices !== undefined && !flag.choices.includes(value)) {
      throw usageError(`Cannot use "${value}" as --${name}: it must be one of ${flag.choices.join(", ")}`);
    }
    if (flag.kind === "number" || flag.kind === "integer" || flag.kind === "bytes") {
      numbers.set(name, parseNumber(name, value, flag));
    }
  }
  return {
    positional: parsed._,
    flags: {
      has: (name) => table[name]?.kind === "list" ? (parsed[name] as string[]).length > 0 : parsed[name] !== undefined,
      text: (name) => parsed[name] as string | undefined,
      number: (name) => numbers.get(name),
      list: (name) => parsed[name] as string[] ?? [],
      on: (name) => parsed[name] === true,
    },
  };
}

function parseNumber(name: string, text: string, flag: Flag): number {
  const value = flag.kind === "bytes" ? parseBytes(text) ?? NaN : text.trim() === "" ? NaN : Number(text);
  const must =
    { bytes: "a size such as 4GiB or 60MB", integer: "a whole number", number: "a number" }[flag.kind as "bytes"];
  if (!Number.isFinite(value) || (flag.kind === "integer" && !Number.isSafeInteger(value))) {
    throw usageError(`Cannot use "${text}" as --${name}: it must be ${must}`);
  }
  if (flag.min !== undefined && value < flag.min) {
    throw usageError(`Cannot use ${text} as --${name}: it must be ${flag.min} or more`);
  }
  return value;
}

function unknownFlag(arg: string, names: readonly string[], table: FlagTable, command: string): Error {
  const written = arg.replace(/=.*/, "");
  const spelled = names.map((name) => table[name].kind === "off" ? `--no-${name}` : `--${name}`);
  const near = closest(written, spelled);
  const hint = near === undefined ? `see "dbf ${command} --help"` : `did you mean ${near}?`;
  return usageError(`Cannot use ${written} with "dbf ${command}": there is no such flag; ${hint}`);
}
