import { assert } from "@std/assert";
import { openCheckpoint } from "../../../pipeline/checkpoint/open.ts";
import { parseRecipe } from "../../../pipeline/recipe/parse.ts";
import { resolveStages } from "../../../pipeline/recipe/resolve.ts";
import { selectLayers } from "../../../pipeline/start_run.ts";
import { planInput } from "../../../pipeline/preflight.ts";
import { planRun } from "../../../pipeline/plan/plan.ts";
import { builtinStages } from "../../../plugins/mod.ts";

/** Most resident MiB by stage on tiny-llama, 64 windows of 256 tokens, 1 bit, two threads of an x64 server (`VmHWM`, reset between stages). */
const MEASURED = { "fisher-diagonal": 595, "block-tuning": 778, logits: 798 };

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
    assert(Math.abs(planned / measured - 1) < 0.2, `${name}: planned ${planned.toFixed(0)} MiB, measured ${measured}`);
  }
});
