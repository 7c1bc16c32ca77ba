import { assert, assertEquals } from "@std/assert";
import { openCheckpoint } from "../../../pipeline/checkpoint/open.ts";
import { parseRecipe } from "../../../pipeline/recipe/parse.ts";
import { resolveStages } from "../../../pipeline/recipe/resolve.ts";
import { selectLayers } from "../../../pipeline/start_run.ts";
import { planInput } from "../../../pipeline/preflight.ts";
import { planRun } from "../../../pipeline/plan/plan.ts";
import { builtinStages } from "../../../plugins/mod.ts";

/** Most resident MiB by stage on tiny-llama, 64 windows of 256 tokens, 1 bit, two threads of an x64 server (`VmHWM`, reset between stages). */
const MEASURED = { "fisher-diagonal": 450, "block-tuning": 393, logits: 410 };

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
});
