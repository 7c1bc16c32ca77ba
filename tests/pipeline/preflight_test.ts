import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { openRuntime } from "../../kernels/runtime/open.ts";
import { compress } from "../../pipeline/compress.ts";
import { selectLayers } from "../../pipeline/start_run.ts";
import { allocationTask } from "../../pipeline/compress_allocation.ts";
import { openCheckpoint } from "../../pipeline/checkpoint/open.ts";
import { findKernelProblems, findProblems, type Machine } from "../../pipeline/preflight.ts";
import { parseRecipe } from "../../pipeline/recipe/parse.ts";
import { resolveStages } from "../../pipeline/recipe/resolve.ts";
import type { RecipeInput } from "../../pipeline/recipe/schema.ts";
import { builtinStages } from "../../plugins/mod.ts";

const tinyLlama = new URL("../fixtures/tiny-llama", import.meta.url).pathname;
const roomy: Machine = {
  freeDiskBytes: () => Promise.resolve(1e12),
  availableMemoryBytes: () => 1e12,
};

async function problemsOf(input: RecipeInput, machine: Machine): Promise<string[]> {
  const recipe = parseRecipe(input);
  const stages = resolveStages(recipe, builtinStages);
  using checkpoint = await openCheckpoint(recipe.model);
  const chosen = selectLayers(recipe, checkpoint, stages);
  const task = allocationTask(recipe, chosen, stages);
  return await findProblems({ recipe, out: recipe.out, checkpoint, chosen, stages, task }, machine);
}

Deno.test("findProblems() finds none where there is room", async () => {
  assertEquals(await problemsOf({ model: tinyLlama, out: join(Deno.makeTempDirSync(), "new", "out") }, roomy), []);
});

Deno.test("findProblems() lists disk, lease, memory, output and tokenizer at once, each with a way out", async () => {
  const root = await Deno.makeTempDir();
  const model = join(root, "model");
  await Deno.mkdir(model);
  for await (const { name } of Deno.readDir(tinyLlama)) {
    if (/^(config|tokenizer).*json$|safetensors$/.test(name)) {
      await Deno.copyFile(join(tinyLlama, name), join(model, name));
    }
  }
  await Deno.writeTextFile(join(model, "tokenizer.json"), '{"model": 1}');
  await Deno.writeTextFile(join(root, "file"), "");
  const problems = await problemsOf(
    { model, out: join(root, "file", "out"), memory: "1MiB" },
    { freeDiskBytes: () => Promise.resolve(1000), availableMemoryBytes: () => 1000 },
  );
  assertEquals(problems.length, 5);
  for (
    const [i, text] of ["cannot write to", "of disk are needed", "--memory", "this machine has", "tokenizer.json"]
      .entries()
  ) {
    assertStringIncludes(problems[i], text);
  }
  await Deno.remove(root, { recursive: true });
});

Deno.test("findProblems() names calibration text that is missing and stages that do not fit beside their layers", async () => {
  const out = join(Deno.makeTempDirSync(), "out");
  const problems = await problemsOf({
    model: tinyLlama,
    out,
    memory: "40MiB",
    calibration: { source: "/nowhere.txt", sequences: 2, length: 64 },
    stages: { reconstruction: ["block-tuning"], distillation: "logits" },
  }, roomy);
  assertEquals(problems.length, 4);
  for (
    const [i, text] of ["--keep", "the stage block-tuning needs", "the stage logits needs", "/nowhere.txt"].entries()
  ) {
    assertStringIncludes(problems[i], text);
  }
});

Deno.test("findProblems() counts the working state of a distilled run as disk", async () => {
  const out = join(Deno.makeTempDirSync(), "out");
  const small: Machine = { ...roomy, freeDiskBytes: () => Promise.resolve(20e6) };
  assertEquals(await problemsOf({ model: tinyLlama, out }, small), []);
  const problems = await problemsOf({
    model: tinyLlama,
    out,
    calibration: { source: join(tinyLlama, "heldout.txt"), sequences: 4, length: 64 },
    stages: { distillation: "logits" },
  }, small);
  assertEquals(problems.length, 1);
  assertStringIncludes(problems[0], "working state");
});

Deno.test("findKernelProblems() loads a graph where there is an operator library, and says how to replace one that fails", async () => {
  await using runtime = await openRuntime({ threads: 1 });
  assertEquals(await findKernelProblems(runtime), []);
  const path = "/old/libdbf_ops.so";
  const nativeKernels = { path, isa: "unknown", operators: ["BinaryMatMul"] };
  const [problem] = await findKernelProblems({ nativeKernels, load: () => Promise.reject(new Error("wrong version")) });
  for (const part of [path, "wrong version", "deno task kernels"]) assertStringIncludes(problem, part);
});

Deno.test("compress() refuses before it starts and leaves nothing behind", async () => {
  const root = await Deno.makeTempDir();
  const out = join(root, "out");
  await assertRejects(
    () => compress({ model: tinyLlama, out, memory: "1MiB" }),
    Error,
    "Cannot start because of this",
  );
  assertEquals([...Deno.readDirSync(root)], []);
  await Deno.remove(root, { recursive: true });
});
