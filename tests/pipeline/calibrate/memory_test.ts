import { assert, assertEquals } from "@std/assert";
import { openCheckpoint } from "../../../pipeline/checkpoint/open.ts";
import { parseRecipe } from "../../../pipeline/recipe/parse.ts";
import { resolveStages } from "../../../pipeline/recipe/resolve.ts";
import { selectLayers } from "../../../pipeline/start_run.ts";
import { planInput } from "../../../pipeline/preflight.ts";
import { planRun } from "../../../pipeline/plan/plan.ts";
import { builtinStages } from "../../../plugins/mod.ts";

/** Most resident MiB by stage on tiny-llama, 64 windows of 256 tokens, 1 bit, two threads of an x64 server (`VmHWM`, reset between stages). */
const MEASURED = { "fisher-diagonal": 461, "block-tuning": 404, logits: 440 };

Deno.test("planRun() says the memory that calibrated stages were measured to take, to 20 %", async () => {
  const model = "tests/fixtures/tiny-llama";
  const recipe = parseRecipe({
    model,
    out: "unused",
    bits: 1,
    stages: { importance: "fisher-diagonal", reconstruction: ["block-tuning"], distillation: "logits" },
    calibration: { source: `${model}/calibration.txt`, sequences: 64, length: 256 },
  });
  const stages = resolveStages(recipe, builtinStages);
  using checkpoint = await openCheckpoint(model);
  const report = planRun({
    ...planInput(recipe, selectLayers(recipe, checkpoint, stages), stages),
    bitsPerWeight: 1,
  });
  for (const [name, measured] of Object.entries(MEASURED)) {
    const stage = report.stages.find((each) => each.name === name)!;
    const planned = (stage.peakBytes + report.peak.processBytes) / 2 ** 20;
    assert(
      planned >= measured && measured > 0.8 * planned,
      `${name}: planned ${planned.toFixed(0)} MiB, measured ${measured}`,
    );
  }
});

Deno.test("planRun() counts the importance pass by the calibration's tokens", async () => {
  const model = "tests/fixtures/tiny-llama";
  using checkpoint = await openCheckpoint(model);
  const flopsOf = (importance: string, sequences: number) => {
    const recipe = parseRecipe({
      model,
      out: "unused",
      bits: 1,
      stages: { importance },
      calibration: { source: `${model}/calibration.txt`, sequences, length: 256 },
    });
    const stages = resolveStages(recipe, builtinStages);
    const report = planRun({
      ...planInput(recipe, selectLayers(recipe, checkpoint, stages), stages),
      bitsPerWeight: 1,
    });
    return report.stages.find(({ name }) => name === importance)!.flops;
  };
  // four blocks of width 192 and 512, with 64 keys and values; a vocabulary of 2048
  const block = 2 * 192 * 192 + 2 * 64 * 192 + 3 * 192 * 512, head = 2048 * 192;
  assertEquals(flopsOf("fisher-diagonal", 64), 64 * 256 * (6 * 4 * block + 4 * head));
  assertEquals(flopsOf("activation", 10), 10 * 256 * 2 * 4 * block);
  assertEquals(flopsOf("none", 64), 0);
  // 512 Ki tokens by default
  assertEquals(flopsOf("activation", 5000), 2 ** 19 * 2 * 4 * block);
});

Deno.test("planRun() counts the windows that a stage is given, and for the distillation those whose teacher is kept at once", async () => {
  const model = "tests/fixtures/tiny-llama";
  using checkpoint = await openCheckpoint(model);
  const planOf = (sequences: number, tokens: number, deviceMemory?: string) => {
    const recipe = parseRecipe({
      model,
      out: "unused",
      ...(deviceMemory === undefined ? {} : { provider: "cuda", deviceMemory }),
      bits: 1,
      stages: {
        importance: { use: "fisher-diagonal", options: { tokens } },
        reconstruction: [{ use: "block-tuning", options: { tokens } }],
        distillation: "logits",
      },
      calibration: { source: `${model}/calibration.txt`, sequences, length: 256 },
    });
    const stages = resolveStages(recipe, builtinStages);
    const input = planInput(recipe, selectLayers(recipe, checkpoint, stages), stages);
    return planRun({ ...input, bitsPerWeight: 1 });
  };
  const bytesOf = ({ stages }: ReturnType<typeof planOf>, name: string) =>
    stages.find((stage) => stage.name === name)!.peakBytes;
  const bounded = planOf(4096, 4 * 256), few = planOf(4, 2 ** 19);
  assertEquals(bytesOf(bounded, "fisher-diagonal"), bytesOf(few, "fisher-diagonal"));
  assertEquals(bytesOf(bounded, "block-tuning"), bytesOf(few, "block-tuning"));
  assert(bytesOf(planOf(4096, 2 ** 19), "fisher-diagonal") > bytesOf(few, "fisher-diagonal"));
  // On disk: four sets of a block's windows, or two of the distillation's.
  const set = 4 * 256 * 192;
  assertEquals(bounded.scratchBytes - few.scratchBytes, (2 * 4096 - 4 * 4) * set);
  assertEquals(planOf(4096, 2 ** 20).scratchBytes - few.scratchBytes, 4 * (4096 - 4) * set);
  // On a GPU they stay there, all or a part; a reconstruction's do where they have an eighth.
  assertEquals(planOf(4096, 4 * 256, "5GiB").scratchBytes, few.scratchBytes - 4 * 4 * set);
  assertEquals(planOf(4096, 2 ** 20, "6GiB").scratchBytes, few.scratchBytes - 4 * 4 * set);
  assertEquals(planOf(4096, 2 ** 20, "5GiB").scratchBytes, few.scratchBytes + (4 * 4096 - 4 * 4) * set);
  // Beyond 1 GiB, whole batches of 4 windows that fit; a teacher between steps takes memory and time for every pass.
  const [many, more] = [planOf(8192, 4 * 256), planOf(16384, 4 * 256)];
  assertEquals(many.scratchBytes - few.scratchBytes, (2 * 5460 - 4 * 4) * set);
  assertEquals(more.scratchBytes, many.scratchBytes);
  assertEquals(bytesOf(more, "logits"), bytesOf(many, "logits"));
  assert(bytesOf(many, "logits") > bytesOf(bounded, "logits"));
  const flopsOf = ({ stages }: ReturnType<typeof planOf>) => stages.find(({ name }) => name === "logits")!.flops;
  const block = 2 * 192 * 192 + 2 * 64 * 192 + 3 * 192 * 512;
  // `balanced` trains on 512 Ki tokens: of 4096 windows all go through the teacher, of 8192 those of the steps
  assertEquals(flopsOf(bounded) - flopsOf(many), 2 * 4 * block * (4096 * 256 - 2 ** 19));
});
