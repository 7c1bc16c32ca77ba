import { assert, assertEquals } from "@std/assert";
import * as v from "valibot";
import { openBlockEngine } from "../../../pipeline/calibrate/engine.ts";
import { activationStatistics } from "../../../pipeline/calibrate/importance.ts";
import { roundToNearest } from "../../../plugins/factorization/nbits/round_to_nearest.ts";
import { sequential } from "../../../plugins/reconstruction/sequential.ts";
import { openSmallRun } from "./small_run.ts";

Deno.test("sequential gives factorizations that want it Σ x xᵀ, with E[x²] of the inputs on its diagonal", async () => {
  await using run = await openSmallRun();
  const { model, checkpoint, jobs, importance, calibration, context } = run;
  await using engine = openBlockEngine(context.runtime, model, checkpoint);
  const { layers } = await activationStatistics(engine, calibration);
  const tokens = calibration.length * calibration[0].length;
  const options = v.parse(roundToNearest.options, { bits: 8, group: 16 });
  const own = jobs.filter(({ block }) => block === 0);
  const asked: string[] = [];
  await sequential.run(
    {
      block: 0,
      model,
      checkpoint,
      jobs: own,
      importance,
      calibration,
      wantsInputMoment: ({ role }) => role !== "self_attn.k_proj",
      committed: () => Promise.resolve(undefined),
      async factorize(job, weight, moment) {
        asked.push(job.role);
        assertEquals(moment === undefined, job.role === "self_attn.k_proj");
        if (moment !== undefined) {
          assertEquals(moment.shape, [job.cols, job.cols]);
          const sums = await moment.read() as Float32Array, expected = layers.get(job.name)!.input;
          for (let i = 0; i < job.cols; i++) {
            // Layers before this one are rounded to 8 bits, so inputs are almost those of the model.
            const mean = sums[i * job.cols + i] / tokens;
            assert(
              Math.abs(mean - expected[i]) < 0.05 * expected[i] + 1e-4,
              `${job.role} ${i}: ${mean}, ${expected[i]}`,
            );
            const other = (7 * i + 3) % job.cols, pair = sums[i * job.cols + other], back = sums[other * job.cols + i];
            assert(Math.abs(pair - back) <= 1e-4 * tokens * Math.sqrt(expected[i] * expected[other]) + 1e-6);
          }
        }
        return roundToNearest.run({ job, weight, importance: undefined }, options, context);
      },
    },
    v.parse(sequential.options, { batchTokens: 36 }),
    context,
  );
  assertEquals(asked.length, own.length);
});
