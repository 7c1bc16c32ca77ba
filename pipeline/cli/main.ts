/**
 * The command line: finds the command, runs it, turns errors into one message and an exit code.
 *
 * @module
 */
import { compressCommand } from "./compress.ts";
import { doctorCommand } from "./doctor.ts";
import { EXIT, exitCodeOf, messageOf, usageError } from "./errors.ts";
import { evaluateCommand } from "./evaluate.ts";
import { exportCommand } from "./export.ts";
import { COMMON_FLAGS, parseFlags } from "./flags.ts";
import { generateCommand } from "./generate.ts";
import { commandHelp, programHelp } from "./help.ts";
import { inspectCommand } from "./inspect.ts";
import { makeOutput, processTerminal, type Terminal } from "./output.ts";
import { planCommand } from "./plan.ts";
import { closest } from "./suggest.ts";
import type { Command } from "./command.ts";
import { VERSION } from "./version.ts";

/** All commands, in the order of help. */
export const COMMANDS: readonly Command[] = [
  planCommand,
  compressCommand,
  exportCommand,
  generateCommand,
  evaluateCommand,
  inspectCommand,
  doctorCommand,
];

/**
 * Runs the command line.
 *
 * @param args As the shell gave them, without the program's name.
 * @param options `terminal`: where output goes (default: the process's streams); `signal`: ends the command, as Ctrl-C
 *   does; `debug`: show stacks.
 * @returns The exit code: 0 done, 1 failed while running, 2 bad usage or input, 130 interrupted.
 */
export async function main(
  args: readonly string[],
  options: { readonly terminal?: Terminal; readonly signal?: AbortSignal; readonly debug?: boolean } = {},
): Promise<number> {
  const terminal = options.terminal ?? processTerminal();
  const signal = options.signal ?? new AbortController().signal;
  const [name, ...rest] = args;
  let command: Command | undefined;
  try {
    if (name === undefined || name === "help" || name === "--help" || name === "-h") {
      const asked = COMMANDS.find((one) => one.name === rest[0]);
      const text = asked === undefined ? programHelp(COMMANDS, VERSION) : commandHelp(asked);
      (name === undefined ? terminal.stderr : terminal.stdout)(`${text}\n`);
      return name === undefined ? EXIT.usage : EXIT.done;
    }
    if (name === "--version") {
      terminal.stdout(`${VERSION}\n`);
      return EXIT.done;
    }
    command = COMMANDS.find((one) => one.name === name);
    if (command === undefined) {
      const near = closest(name, COMMANDS.map((one) => one.name));
      throw usageError(
        `Cannot run "${name}": there is no such command; ${
          near === undefined ? 'see "dbf --help"' : `did you mean "${near}"?`
        }`,
      );
    }
    if (rest.includes("--help") || rest.includes("-h")) {
      terminal.stdout(`${commandHelp(command)}\n`);
      return EXIT.done;
    }
    const { positional, flags } = parseFlags(rest, { ...command.flags, ...COMMON_FLAGS }, command.name);
    checkPositional(command, positional);
    const output = makeOutput(terminal, flags.on("json"));
    try {
      await command.run({ positional, flags, output, signal });
    } finally {
      output.end();
    }
    return EXIT.done;
  } catch (error) {
    if (signal.aborted) {
      terminal.stderr(`interrupted${command?.interrupted === undefined ? "" : `: ${command.interrupted}`}\n`);
      return EXIT.interrupted;
    }
    terminal.stderr(`error: ${messageOf(error)}\n`);
    if (options.debug && error instanceof Error) terminal.stderr(`${error.stack}\n`);
    return exitCodeOf(error);
  }
}

function checkPositional(command: Command, given: readonly string[]): void {
  const needed = command.positional.filter(({ optional }) => !optional);
  if (given.length < needed.length) {
    const { name, help } = command.positional[given.length];
    throw usageError(`Cannot run "dbf ${command.name}" without ${name} (${help}); see "dbf ${command.name} --help"`);
  }
  if (given.length > command.positional.length) {
    const extra = given[command.positional.length];
    throw usageError(
      `Cannot use "${extra}" with "dbf ${command.name}": it takes ${command.positional.length} arguments; quote texts with spaces`,
    );
  }
}

/** Gives all permissions back but reading: what then parses a stranger's file can do no more. */
function keepOnlyReading(): void {
  for (const name of ["write", "net", "env", "sys", "run", "ffi"] as const) Deno.permissions.revokeSync({ name });
}

/**
 * Runs the command line for the process: Ctrl-C ends it in order, a second one at once.
 *
 * @returns The exit code.
 */
export async function runProcess(args: readonly string[] = Deno.args): Promise<number> {
  const debug = Boolean(Deno.env.get("DBF_DEBUG"));
  if (COMMANDS.find(({ name }) => name === args[0])?.readsOnly) keepOnlyReading();
  const controller = new AbortController();
  const stop = () => {
    if (controller.signal.aborted) Deno.exit(EXIT.interrupted);
    controller.abort(new DOMException("interrupted", "AbortError"));
  };
  const signals: Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT"] : ["SIGINT", "SIGTERM"];
  for (const name of signals) Deno.addSignalListener(name, stop);
  try {
    return await main(args, { signal: controller.signal, debug });
  } finally {
    for (const name of signals) Deno.removeSignalListener(name, stop);
  }
}
