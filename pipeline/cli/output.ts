/**
 * Where results and progress go: stdout and stderr, for people, logs or programs.
 *
 * @module
 */
import type { DbfEvent } from "../stream/events.ts";
import type { Output } from "./command.ts";
import { EXIT } from "./errors.ts";
import { type Progress, renderBar, renderLine, trackProgress } from "./progress.ts";

/** A bar is redrawn this often at most. */
const REDRAW_MS = 100;
/** Progress lines of long tasks come this often at most; finished layers always get one. */
const LINE_MS = 5000;

/** What output needs of the world; tests give their own. */
export interface Terminal {
  stdout(text: string): void;
  stderr(text: string): void;
  /** Columns of stderr when it is a terminal. */
  readonly columns: number | undefined;
  now(): number;
}

/** The process's own streams. */
export function processTerminal(): Terminal {
  const encoder = new TextEncoder();
  const writeAll = (stream: { writeSync(bytes: Uint8Array): number }, text: string) => {
    let bytes = encoder.encode(text);
    try {
      while (bytes.length > 0) bytes = bytes.subarray(stream.writeSync(bytes));
    } catch (error) {
      if (error instanceof Deno.errors.BrokenPipe) Deno.exit(EXIT.done); // as in `dbf plan … | head`
      throw error;
    }
  };
  let columns: number | undefined;
  if (Deno.stderr.isTerminal()) {
    try {
      columns = Deno.consoleSize().columns;
    } catch {
      columns = 80;
    }
  }
  return {
    stdout: (text) => writeAll(Deno.stdout, text),
    stderr: (text) => writeAll(Deno.stderr, text),
    columns,
    now: () => performance.now(),
  };
}

/**
 * Makes a command's output.
 *
 * @param terminal Where it goes.
 * @param json Whether one JSON document and JSON lines are wanted.
 */
export function makeOutput(terminal: Terminal, json: boolean): Output {
  const tracker = trackProgress(terminal.now);
  const { columns } = terminal;
  let drawn = false;
  let last = columns === undefined ? terminal.now() : -Infinity;
  const clear = () => {
    if (drawn) terminal.stderr("\r\x1b[2K");
    drawn = false;
  };
  const line = (text: string) => {
    clear();
    terminal.stderr(`${text}\n`);
  };
  const show = (progress: Progress, event: DbfEvent) => {
    const now = terminal.now();
    const finished = progress.done >= progress.total;
    if (columns !== undefined) {
      if (!finished && now - last < REDRAW_MS) return;
      terminal.stderr(`\r\x1b[2K${renderBar(progress, now, columns)}`);
      drawn = true;
      last = now;
    } else if (event.type === "layer-committed" || now - last >= LINE_MS) {
      line(renderLine(progress, now));
      last = now;
    }
  };
  return {
    json,
    print: (text) => {
      if (json) return;
      clear();
      terminal.stdout(`${text}\n`);
    },
    write: (text) => {
      if (json) return;
      clear();
      terminal.stdout(text);
    },
    result: (document, render) => {
      clear();
      terminal.stdout(`${json ? JSON.stringify(document) : render()}\n`);
    },
    event: (event) => {
      if (json) return terminal.stderr(`${JSON.stringify(event)}\n`);
      if (event.type === "notice") return line(event.message);
      const progress = tracker.follow(event);
      const counted = event.type === "layer-committed" || event.type === "stage-progress" ||
        event.type === "export-progress" || (columns !== undefined && event.type === "stage-start");
      if (progress !== undefined && counted) show(progress, event);
    },
    end: clear,
  };
}
