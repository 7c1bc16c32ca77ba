import { assertAlmostEquals, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { COMMANDS, main } from "../../../pipeline/cli/main.ts";
import { fixture } from "../model/golden.ts";
import { dbf, memoryTerminal } from "./run.ts";

const TINY = fixture("tiny-llama");

Deno.test("main() explains every command with arguments, flags and examples", async () => {
  const all = await dbf("--help");
  assertEquals(all.code, 0);
  for (const { name } of COMMANDS) {
    assertStringIncludes(all.out, name);
    const help = await dbf(name, "--help");
    assertEquals([help.code, help.err], [0, ""]);
    for (const part of [`Usage: dbf ${name}`, "Flags:", "--json", "Examples:", `dbf ${name}`]) {
      assertStringIncludes(help.out, part);
    }
    assertEquals(await dbf("help", name), help);
  }
  assertEquals((await dbf()).code, 2);
  assertMatch((await dbf("--version")).out, /^\d+\.\d+\.\d+\n$/);
});

Deno.test("main() answers wrong use with one message and exit code 2", async () => {
  const cases: [string[], string][] = [
    [["compres"], `did you mean "compress"?`],
    [["plan", TINY, "--bit", "2"], "did you mean --bits?"],
    [["plan"], "Cannot run without MODEL"],
    [["export", "a"], "without DIR"],
    [["generate", TINY, "one", "two"], "quote texts"],
    [["plan", "/nowhere"], "/nowhere"],
    [["plan", TINY, "--set", "v_prjo=2.5"], "no layer's name matches it"],
    [["plan", TINY, "--bits", "0.001", "--set", "allocation=measured"], "use at least 0.0"],
    [["plan", TINY, "--set", 'candidates={"int4":"gptq"}'], "with allocation uniform"],
    [["plan", TINY, "--set", 'candidates={"int4":"gptq"}', "--set", "allocation=measured"], "give --size"],
    [["plan", TINY, "--size", "1MB"], "the smallest export in f32 has 17"],
    [["plan", TINY, "--bits", "0.001"], "bits"],
    [["inspect", "/nowhere"], "no such file"],
    [["evaluate", TINY], "--text"],
    [["evaluate", TINY, "--text", "/nowhere.txt"], "/nowhere.txt"],
    [["generate", "/nowhere", "Hi"], "/nowhere"],
    [["generate", TINY, "Hi", "--top-p", "2"], "topP"],
    [["compress", TINY, "/nowhere/out", "--set", "factorization.nonsense=1"], "nonsense"],
  ];
  for (const [args, message] of cases) {
    const { code, out, err } = await dbf(...args);
    assertEquals([code, out], [2, ""], `${args.join(" ")}: ${err}`);
    assertStringIncludes(err, message);
    assertEquals(err.startsWith("error: ") && !err.includes("    at "), true, err);
  }
});

Deno.test("plan prints a table, or the report as JSON", async () => {
  const text = await dbf("plan", TINY, "--bits", "1");
  assertEquals(text.code, 0);
  for (const part of ["model.layers.3.mlp.down_proj", "peak memory", "sign bits"]) assertStringIncludes(text.out, part);
  const report = JSON.parse((await dbf("plan", TINY, "--bits", "1", "--keep", "q_proj", "--json")).out);
  assertEquals([report.layers.length, report.architecture], [24, "llama"]);
});

Deno.test("plan shows where an allocation starts, finds it with --measure, and what a run did", async () => {
  const out = join(await Deno.makeTempDir(), "out");
  try {
    const trial = ["--set", 'allocation={"use":"measured","options":{"iterations":1,"ratios":[0.5,1.5]}}'];
    const flags = [
      "--bits",
      "1.5",
      "--threads",
      "1",
      "--keep",
      "layers\\.[123]\\.|k_proj",
      "--set",
      "o_proj=2",
      ...trial,
    ];
    const short = ["--set", 'factorization={"use":"dbf-admm","options":{"iterations":1,"sweeps":0,"latents":false}}'];
    const plan = async (...args: string[]) => JSON.parse((await dbf("plan", ...args, "--json")).out);
    const ranks = (report: { layers: { name: string; rank: number; reason: string }[] }) =>
      report.layers.map(({ name, rank, reason }) => [name, rank, reason]);

    const start = await plan(TINY, ...flags);
    assertEquals([start.allocation, start.layers.length], [{ stage: "measured", source: "start" }, 6]);
    assertMatch(start.layers[0].reason, /not measured yet/);
    const measured = await plan(TINY, out, ...flags, ...short, "--measure");
    assertEquals(measured.allocation.source, "measured");
    assertMatch(measured.layers[0].reason, /a bit more saves/);
    assertEquals(measured.layers[2].reason, "2.00 bits, override o_proj");
    // kept for the run: shown without computing, and taken over by it
    const kept = await plan(TINY, out, ...flags, ...short);
    assertEquals([kept.allocation.source, ranks(kept)], ["output", ranks(measured)]);
    assertEquals((await plan(TINY, out, ...flags, ...short, "--seed", "5")).allocation.source, "start");
    const report = JSON.parse((await dbf("compress", TINY, out, ...flags, ...short, "--json")).out);
    assertEquals(ranks(report), ranks(measured));
    const finished = await plan(out);
    assertEquals([finished.allocation.source, ranks(finished)], ["output", ranks(measured)]);
    assertEquals(finished.exportBytes, measured.exportBytes);
    assertEquals((await dbf("plan", out, "--bits", "2")).code, 2);
    const again = await dbf("compress", TINY, out, ...flags, ...short, "--json");
    assertEquals(again.err.includes('"stage":"measured"'), false); // a finished run measures nothing again
  } finally {
    await Deno.remove(join(out, ".."), { recursive: true });
  }
});

Deno.test("inspect shows checkpoints, safetensors files and says what is damaged", async () => {
  const checkpoint = JSON.parse((await dbf("inspect", TINY, "--json")).out);
  assertEquals([checkpoint.kind, checkpoint.architecture, checkpoint.parameters], ["checkpoint", "llama", 1967808]);
  assertStringIncludes((await dbf("inspect", TINY)).out, "6 heads of 32 over 2 key/value heads");
  const file = JSON.parse((await dbf("inspect", join(TINY, "model.safetensors"), "--json")).out);
  assertEquals([file.kind, file.tensors.length], ["safetensors", 38]);
  const damaged = await Deno.makeTempFile({ suffix: ".onnx" });
  try {
    await Deno.writeTextFile(damaged, "no model");
    assertEquals((await dbf("inspect", damaged)).code, 2);
  } finally {
    await Deno.remove(damaged);
  }
});

Deno.test("export, generate, evaluate and inspect work on each other's directories", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const dense = join(directory, "dense");
    assertEquals((await dbf("export", TINY, dense)).code, 0);
    const again = await dbf("export", TINY, dense);
    assertEquals(again.code === 0, false);
    const graph = JSON.parse((await dbf("inspect", dense, "--json")).out);
    assertEquals([graph.kind, graph.inputs[0].name], ["onnx", "input_ids"]);

    const greedy = JSON.parse(await Deno.readTextFile(join(TINY, "greedy.json")));
    const prompt = greedy.text.slice(0, greedy.text.indexOf(" the opinion that"));
    const text = await dbf("generate", dense, prompt, "--max-tokens", "4", "--threads", "1");
    assertEquals([text.code, text.err], [0, ""]);
    assertEquals(greedy.text.startsWith(prompt + text.out.trimEnd()), true, text.out);
    const json = JSON.parse((await dbf("generate", dense, prompt, "--max-tokens", "4", "--json")).out);
    assertEquals([json.text, json.finish, json.ids.length], [text.out.trimEnd(), "length", 4]);
    const long = await dbf("generate", dense, prompt, "--max-tokens", "4000");
    assertEquals(long.code, 2);

    // The same golden number as evaluate_test.ts.
    const args = ["--text", join(TINY, "heldout.txt"), "--context", "256", "--tokens", "2048", "--json"];
    const result = JSON.parse((await dbf("evaluate", dense, ...args, "--baseline", TINY)).out);
    assertEquals(Object.keys(result), ["perplexity", "perplexityStderr", "tokens", "context", "kl", "sameTop1"]);
    assertEquals(Object.keys(result.kl), ["mean", "p50", "p99", "max"]);
    assertAlmostEquals(result.perplexity, 18.673702, 1e-3);
    assertEquals([result.kl.max, result.sameTop1], [0, 1]);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("main() ends with 130 when it is interrupted and says how to go on", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const terminal = memoryTerminal();
    const controller = new AbortController();
    const stderr = (text: string) => {
      terminal.stderr(text);
      if (text.startsWith("compress 1/")) controller.abort();
    };
    const args = ["compress", TINY, join(directory, "out"), "--bits", "0.5", "--set", "factorization.iterations=2"];
    const code = await main(args, { terminal: { ...terminal, stderr }, signal: controller.signal });
    assertEquals(code, 130);
    assertMatch(terminal.err, /interrupted: run the same command again to resume\n$/);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("the program exits with the command line's code and prints one message", async () => {
  const run = async (...args: string[]) => {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--no-check",
        "--allow-read",
        "--allow-write",
        "--allow-env",
        "--allow-sys",
        "--allow-ffi",
        "mod.ts",
        ...args,
      ],
      cwd: new URL("../../../", import.meta.url),
    }).output();
    return { code, out: new TextDecoder().decode(stdout), err: new TextDecoder().decode(stderr) };
  };
  const wrong = await run("generate");
  assertEquals([wrong.code, wrong.out], [2, ""]);
  assertMatch(wrong.err, /^error: Cannot run "dbf generate" without DIR .*\n$/);
  const doctor = await run("doctor", "--json");
  assertEquals(doctor.code, 0);
  assertEquals(typeof JSON.parse(doctor.out), "object");
});
