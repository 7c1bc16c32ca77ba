import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { makeOutput } from "../../../pipeline/cli/output.ts";
import { formatCount, formatDuration } from "../../../pipeline/cli/units.ts";
import type { DbfEvent } from "../../../pipeline/stream/events.ts";
import { memoryTerminal } from "./run.ts";

const EVENTS: readonly DbfEvent[] = [
  { type: "run-start", layers: 4, resumedLayers: 1, provider: "cpu", binding: "c-api" },
  { type: "stage-start", stage: "dbf-admm", subject: "model.layers.0.mlp.up_proj.weight" },
  { type: "stage-progress", stage: "dbf-admm", subject: "model.layers.0.mlp.up_proj.weight", done: 3, total: 9 },
  {
    type: "layer-committed",
    layer: "model.layers.0.mlp.up_proj.weight",
    kind: "dbf",
    bytes: 9,
    weightedError: 0.0123,
    done: 2,
    total: 4,
  },
  { type: "notice", message: "something to know" },
];

Deno.test("makeOutput() prints plain lines where there is no terminal", () => {
  const terminal = memoryTerminal();
  const output = makeOutput(terminal, false);
  EVENTS.forEach(output.event);
  output.print("done");
  output.result({ a: 1 }, () => "a is 1");
  assertEquals(terminal.out, "done\na is 1\n");
  const lines = terminal.err.trimEnd().split("\n");
  assertMatch(lines[0], /^compress 2\/4 {2}model\.layers\.0\.mlp\.up_proj\.weight {2}error 0\.0123 {2}\d.* left$/);
  assertEquals(lines.slice(1), ["something to know"]);
});

Deno.test("makeOutput() draws one bar on a terminal and removes it before text", () => {
  const terminal = memoryTerminal(100);
  const output = makeOutput(terminal, false);
  EVENTS.slice(0, 4).forEach(output.event);
  assertStringIncludes(terminal.err, "compress ████████████░░░░░░░░░░░░  50 % 2/4");
  assertStringIncludes(terminal.err, "layers.0.mlp.up_proj");
  assertEquals(terminal.err.includes("\n"), false);
  output.print("text");
  assertEquals(terminal.err.endsWith("\r\x1b[2K"), true);
});

Deno.test("makeOutput() with JSON prints one document, and events as lines", () => {
  const terminal = memoryTerminal(100);
  const output = makeOutput(terminal, true);
  EVENTS.forEach(output.event);
  output.print("not shown");
  output.write("nor this");
  output.result({ a: 1 }, () => "a is 1");
  assertEquals(terminal.out, `{"a":1}\n`);
  assertEquals(terminal.err.trimEnd().split("\n").map((line) => JSON.parse(line)), [...EVENTS]);
});

Deno.test("formatDuration() and formatCount() keep numbers short", () => {
  assertEquals([0.44, 59.6, 200, 7500, 100_000].map(formatDuration), [
    "0.4 s",
    "1 min",
    "3 min 20 s",
    "2 h 5 min",
    "1 d 3 h",
  ]);
  assertEquals([960, 12_400_000, 1.35e9].map(formatCount), ["960", "12.4 M", "1.35 G"]);
});
