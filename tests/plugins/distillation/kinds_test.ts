import { assert, assertAlmostEquals, assertEquals, assertNotEquals } from "@std/assert";
import * as v from "valibot";
import { factorsOfKind } from "../../../pipeline/stream/factors.ts";
import type { Factors, LayerJob } from "../../../pipeline/stream/stage.ts";
import { roundToNearest } from "../../../plugins/factorization/nbits/round_to_nearest.ts";
import { signValue } from "../../../plugins/factorization/sign/stage.ts";
import { defaultRates } from "../../../pipeline/calibrate/default_rates.ts";
import { cosineFactor } from "../../../pipeline/calibrate/schedule.ts";
import { distil, lossesOf, openSmallRun } from "../reconstruction/small_run.ts";

Deno.test("logitDistillation trains scales of rounded layers and signs and scales of sign layers, in memory and in files alike", async () => {
  await using run = await openSmallRun();
  const { checkpoint, jobs, importance, context } = run;
  const make = (job: LayerJob): Promise<Factors> => {
    const input = { job, weight: checkpoint.tensor(job.name), importance: importance.get(job.name) };
    // Block 0 has rounded layers only: nothing of it has latents.
    return job.block === 0
      ? roundToNearest.run(input, v.parse(roundToNearest.options, { bits: 2, group: 32 }), context)
      : signValue.run(input, v.parse(signValue.options, {}), context);
  };
  const before = new Map<string, Factors>();
  for (const job of jobs) before.set(job.name, await make(job));
  const { committed: after, result } = await distil(run, before, { epochs: 12, residentBytes: 2 ** 30 });
  const [first] = run.events.filter((event) => event.type === "stage-progress" && event.stage === "logits");
  assert(first.type === "stage-progress");
  // The first layer has no signs; those that have begin where their factorization left them.
  assertAlmostEquals(
    first.detail!.rate,
    defaultRates(jobs, first.total, "factorized").signs * cosineFactor(0, first.total),
  );
  const losses = lossesOf(run.events, "logits");
  assert(result.loss < 0.8 * losses[0], `${losses[0]} to ${result.loss}`);
  assert(result.flipped > 0 && result.flipped < 0.5, `${result.flipped}`);
  assertEquals(after.size, jobs.length);
  for (const { name, block } of jobs) {
    if (block === 0) {
      const [old, now] = [before, after].map((all) => factorsOfKind(name, all.get(name)!, "nbits"));
      assertEquals([now.codes, now.zeros], [old.codes, old.zeros]);
      assertNotEquals(now.scales, old.scales);
    } else {
      const now = factorsOfKind(name, after.get(name)!, "sign");
      assertNotEquals(now.a, factorsOfKind(name, before.get(name)!, "sign").a);
      assertEquals(now.latents, undefined);
    }
  }
  assertEquals((await distil(run, before, { epochs: 12, residentBytes: 0 })).committed, after);
});
