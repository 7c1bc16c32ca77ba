/**
 * What a command of the command line is: data for help and parsing, and a function.
 *
 * @module
 */
import type { DbfEvent } from "../stream/events.ts";
import type { FlagTable, FlagValues } from "./flags.ts";

/** A positional argument. */
export interface Positional {
  readonly name: string;
  readonly help: string;
  readonly optional?: boolean;
}

/** Where a command's results and progress go. */
export interface Output {
  /** Whether one JSON document is wanted. */
  readonly json: boolean;
  /** Text for people on stdout; nothing with `--json`. */
  print(text: string): void;
  /** Text on stdout without a line end, at once; nothing with `--json`. */
  write(text: string): void;
  /** The result: the JSON document with `--json`, else the rendered text. */
  result(document: unknown, render: () => string): void;
  /** Progress, on stderr. */
  event(event: DbfEvent): void;
  /** Removes an unfinished progress bar. */
  end(): void;
}

/** What a command is called with. */
export interface CommandInput {
  readonly positional: readonly string[];
  readonly flags: FlagValues;
  readonly output: Output;
  /** Aborted by Ctrl-C. */
  readonly signal: AbortSignal;
}

/** One command. */
export interface Command {
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  /** A paragraph for its own help. */
  readonly description: string;
  readonly positional: readonly Positional[];
  readonly flags: FlagTable;
  readonly examples: readonly (readonly [command: string, what: string])[];
  /** Whether it only reads files: the program then gives all other permissions back before it does. */
  readonly readsOnly?: boolean;
  /** Said after Ctrl-C. */
  readonly interrupted?: string;
  run(input: CommandInput): Promise<void>;
}
