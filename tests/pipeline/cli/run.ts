/** Runs the command line inside the test's process, with streams in memory. */
import { main } from "../../../pipeline/cli/main.ts";
import type { Terminal } from "../../../pipeline/cli/output.ts";

/** A terminal that remembers; `columns` makes it one with a bar. */
export function memoryTerminal(columns?: number): Terminal & { readonly out: string; readonly err: string } {
  let out = "", err = "", clock = 0;
  return {
    stdout: (text) => void (out += text),
    stderr: (text) => void (err += text),
    columns,
    now: () => clock += 1000,
    get out() {
      return out;
    },
    get err() {
      return err;
    },
  };
}

/** Exit code and output of one command. */
export async function dbf(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const terminal = memoryTerminal();
  const code = await main(args, { terminal });
  return { code, out: terminal.out, err: terminal.err };
}
