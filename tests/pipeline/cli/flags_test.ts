import { assertEquals, assertThrows } from "@std/assert";
import { exitCodeOf } from "../../../pipeline/cli/errors.ts";
import { type FlagTable, parseFlags } from "../../../pipeline/cli/flags.ts";
import { setField } from "../../../pipeline/cli/set_field.ts";
import { RECIPE_FLAGS, recipeFromFlags } from "../../../pipeline/cli/recipe_flags.ts";

const TABLE: FlagTable = {
  bits: { kind: "number", help: "" },
  "max-tokens": { kind: "integer", min: 1, help: "" },
  memory: { kind: "bytes", help: "" },
  keep: { kind: "list", help: "" },
  dtype: { kind: "text", choices: ["f32", "f16"], help: "" },
  restart: { kind: "switch", help: "" },
  chat: { kind: "off", help: "" },
};

Deno.test("parseFlags() reads numbers, sizes, lists, switches and negated switches in any order", () => {
  const args = ["in", "--bits", "1.5", "--keep", "a", "--memory=4GiB", "--restart", "out", "--keep=b", "--no-chat"];
  const { positional, flags } = parseFlags(args, TABLE, "x");
  assertEquals(positional, ["in", "out"]);
  assertEquals([flags.number("bits"), flags.number("memory")], [1.5, 4 * 2 ** 30]);
  assertEquals(flags.list("keep"), ["a", "b"]);
  assertEquals([flags.on("restart"), flags.on("chat")], [true, false]);
  const none = parseFlags(["--", "--bits"], TABLE, "x");
  assertEquals(none.positional, ["--bits"]);
  assertEquals([none.flags.on("restart"), none.flags.on("chat"), none.flags.has("bits")], [false, true, false]);
});

Deno.test("parseFlags() refuses what is wrong, names it, and exits with 2", () => {
  const cases: [string[], string][] = [
    [["--bit", "2"], "did you mean --bits?"],
    [["--colour"], `see "dbf x --help"`],
    [["--bits", "two"], `Cannot use "two" as --bits: it must be a number`],
    [["--bits"], "without a value"],
    [["--bits", "--restart"], "without a value"],
    [["--max-tokens", "1.5"], "whole number"],
    [["--max-tokens", "0"], "1 or more"],
    [["--memory", "lots"], "a size such as 4GiB"],
    [["--dtype", "f8"], "one of f32, f16"],
    [["--no-cat"], "did you mean --no-chat?"],
  ];
  for (const [args, message] of cases) {
    const error = assertThrows(() => parseFlags(args, TABLE, "x"), TypeError, message);
    assertEquals(exitCodeOf(error), 2);
  }
});

Deno.test("setField() reaches fields, stages and their options, and refuses the rest", () => {
  const recipe: Record<string, unknown> = { stages: { factorization: "mine" } };
  for (
    const setting of [
      "seed=3",
      "factorization.iterations=60",
      "allocation=equal-error",
      "reconstruction=a",
      "reconstruction.lr=0.1",
    ]
  ) {
    setField(recipe, setting);
  }
  assertEquals(recipe, {
    seed: 3,
    stages: {
      factorization: { use: "mine", options: { iterations: 60 } },
      allocation: "equal-error",
      reconstruction: [{ use: "a", options: { lr: 0.1 } }],
    },
  });
  for (const setting of ["seed", "=3", "a..b=x", "__proto__.x=y", "seed.x=1", "distillation.epochs=1"]) {
    assertThrows(() => setField(recipe, setting), TypeError, "--set");
  }
});

Deno.test("recipeFromFlags() builds the recipe that the flags say, over a recipe file", async () => {
  const build = (...args: string[]) =>
    recipeFromFlags({ model: "m", out: "o" }, parseFlags(args, RECIPE_FLAGS, "compress").flags);
  const recipe = await build("--bits", "1.5", "--blocks", "0-1", "--keep", "q_proj", "--memory", "2GiB", "--seed", "7");
  assertEquals([recipe.bits, recipe.blocks, recipe.keep, recipe.memory, recipe.seed], [
    1.5,
    [0, 1],
    ["q_proj"],
    2 ** 31,
    7,
  ]);
  const calibrated = await build("--calibration", "t.txt", "--effort", "fast", "--set", "calibration.sequences=8");
  assertEquals([calibrated.calibration?.source, calibrated.calibration?.sequences], ["t.txt", 8]);
  const further = await build("--from", "earlier", "--calibration", "t.txt", "--effort", "fast");
  assertEquals([further.from, further.stages.distillation?.use], ["earlier", "logits"]);
  assertEquals([further.stages.importance.use, further.stages.reconstruction], ["none", []]);
  assertEquals(calibrated.stages.importance.use, "fisher-diagonal");
  const options = ["distillation.tokens=1024", "reconstruction.retuneRate=2e-4", "importance.tokens=512"];
  const tuned = (await build("--calibration", "t.txt", ...options.flatMap((option) => ["--set", option]))).stages;
  assertEquals(tuned.distillation, { use: "logits", options: { tokens: 1024 } });
  assertEquals(tuned.reconstruction, [{ use: "block-tuning", options: { retuneRate: 2e-4 } }]);
  assertEquals(tuned.importance, { use: "fisher-diagonal", options: { tokens: 512 } });
  const chosen = await build(
    "--set",
    "importance.tokens=512",
    "--calibration",
    "t.txt",
    "--set",
    "importance=activation",
  );
  assertEquals(chosen.stages.importance, { use: "activation", options: { tokens: 512 } });

  const file = await Deno.makeTempFile({ suffix: ".json" });
  try {
    await Deno.writeTextFile(file, `{"size": "1MB", "seed": 1, "stages": {"factorization": {"use": "dbf-admm"}}}`);
    const over = await build("--recipe", file, "--bits", "1", "--set", "factorization.x=1");
    assertEquals([over.size, over.bits, over.seed, over.stages.factorization.options], [undefined, 1, 1, { x: 1 }]);
  } finally {
    await Deno.remove(file);
  }
  for (
    const [args, message] of [
      [["--bits", "1", "--size", "1MB"], "together"],
      [["--blocks", "2-1"], "--blocks"],
      [["--bits", "-1"], "bits: must be above 0"],
      [["--keep", "("], "regular expression"],
      [["--recipe", "/nowhere.json"], "no such file"],
      [["--set", "sed=1"], "sed"],
      [["--set", "distillation.tokens=1024"], "--set distillation=NAME first"],
    ] as const
  ) {
    const error = await build(...args).then(() => undefined, (error: Error) => error);
    assertEquals(error?.message.includes(message), true, `${message} in ${error?.message}`);
  }
});
