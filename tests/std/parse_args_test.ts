import { assertEquals } from "@std/assert";
import { parseArgs } from "@std/cli/parse-args";
import { toArray } from "@std/streams/to-array";
import { TextLineStream } from "@std/streams/text-line-stream";

Deno.test("parseArgs() reads values, numbers, booleans and positional arguments", () => {
  assertEquals(parseArgs(["a", "--bits", "2", "--name=x=y", "-v", "7"], { boolean: ["v"], string: ["name"] }), {
    _: ["a", 7],
    bits: 2,
    name: "x=y",
    v: true,
  });
  assertEquals(parseArgs(["--t", "-1"], { string: ["t"] }).t, "-1");
  assertEquals(parseArgs(["--out"], { string: ["out"] }).out, "");
  assertEquals(parseArgs(["1", "x"], { string: ["_"] })._, ["1", "x"]);
  assertEquals(parseArgs(["-abc", "-n5"], {}), { _: [], a: true, b: true, c: true, n: 5 });
});

Deno.test("parseArgs() collects, aliases, defaults and negates", () => {
  const args = parseArgs(["--keep", "a", "-k", "b", "--no-color"], {
    collect: ["keep"],
    string: ["keep"],
    alias: { k: "keep" },
    default: { seed: 1 },
    negatable: ["color"],
  });
  assertEquals(args.keep, ["a", "b"]);
  assertEquals(args.color, false);
  assertEquals(args.seed, 1);
  assertEquals(parseArgs([], { boolean: ["json"], collect: ["keep"] }), { _: [], json: false, keep: [] });
});

Deno.test("parseArgs() reports undeclared flags and stops early", () => {
  const seen: string[] = [];
  const args = parseArgs(["--good", "1", "--bad", "2"], {
    string: ["good"],
    unknown: (arg) => {
      seen.push(arg);
      return false;
    },
  });
  assertEquals(args, { _: [], good: "1" });
  assertEquals(seen, ["--bad"]);
  assertEquals(parseArgs(["-a", "run", "--b"], { boolean: ["a"], stopEarly: true })._, ["run", "--b"]);
  assertEquals(parseArgs(["x", "--", "--y"], { "--": true }), { _: ["x"], "--": ["--y"] });
  assertEquals(parseArgs(["x", "--", "--y"])._, ["x", "--y"]);
});

Deno.test("TextLineStream splits at line ends across chunks", async () => {
  const lines = ReadableStream.from(["a\r", "\nb\n", "\nc"]).pipeThrough(new TextLineStream());
  assertEquals(await toArray(lines), ["a", "b", "", "c"]);
});
