/**
 * Help texts, made from the commands' own tables.
 *
 * @module
 */
import type { Command } from "./command.ts";
import { COMMON_FLAGS, type Flag } from "./flags.ts";

const EXIT_CODES = "Exit codes: 0 done, 1 failed while running, 2 bad usage or input, 130 interrupted.";

/** Help of the whole program. */
export function programHelp(commands: readonly Command[], version: string): string {
  const width = Math.max(...commands.map(({ name }) => name.length));
  return [
    `dbf ${version}: compresses language models to binary matrices, a layer at a time, and writes ONNX.`,
    "",
    "Usage: dbf COMMAND …   (in the checkout: deno task dbf COMMAND …)",
    "",
    ...commands.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}`),
    "",
    `Run "dbf COMMAND --help" for its flags and examples; "dbf --version" prints the version.`,
    EXIT_CODES,
  ].join("\n");
}

/** Help of one command. */
export function commandHelp(command: Command): string {
  const places = command.positional.map(({ name, optional }) => optional ? `[${name}]` : name).join(" ");
  const flags = Object.entries({ ...command.flags, ...COMMON_FLAGS }).map(([name, flag]) =>
    [spelling(name, flag), describe(flag)] as const
  );
  return [
    `Usage: dbf ${[command.name, places, "[flags]"].filter(Boolean).join(" ")}`,
    "",
    command.description,
    "",
    ...section("Arguments", command.positional.map(({ name, help }) => [name, help])),
    ...section("Flags", flags),
    "Examples:",
    ...command.examples.flatMap(([line, what]) => [`  # ${what}`, `  ${line}`]),
    "",
    EXIT_CODES,
  ].join("\n");
}

function spelling(name: string, flag: Flag): string {
  if (flag.kind === "off") return `--no-${name}`;
  const defaults = { number: "N", integer: "N", bytes: "SIZE", text: "TEXT", list: "TEXT" } as Record<string, string>;
  const value = flag.value ?? flag.choices?.join("|") ?? defaults[flag.kind];
  return `--${name}${flag.kind === "switch" ? "" : ` ${value}`}`;
}

function describe(flag: Flag): string {
  return flag.kind === "list" ? `${flag.help} (may be repeated)` : flag.help;
}

/** Two columns; a long left side gets its own line. */
function section(title: string, rows: readonly (readonly [string, string])[]): string[] {
  if (rows.length === 0) return [];
  const width = Math.min(26, Math.max(...rows.map(([left]) => left.length)));
  return [
    `${title}:`,
    ...rows.flatMap(([left, right]) =>
      left.length > width ? [`  ${left}`, `  ${"".padEnd(width)}  ${right}`] : [`  ${left.padEnd(width)}  ${right}`]
    ),
    "",
  ];
}
