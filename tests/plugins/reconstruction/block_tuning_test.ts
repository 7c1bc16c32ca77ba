import { assert, assertEquals, assertRejects } from "@std/assert";
import * as v from "valibot";
import { blockTuning } from "../../../plugins/reconstruction/block_tuning.ts";
import { lossesOf, openSmallRun } from "./small_run.ts";

Deno.test("blockTuning retunes, tunes signs, and lowers the block's loss in both", async () => {
  await using run = await openSmallRun();
  const factors = await run.reconstruct({ retuneEpochs: 6, signEpochs: 12, batchTokens: 36 });
  assertEquals(factors.size, 14);
  for (const stage of ["block-tuning retune", "block-tuning signs"]) {
    const losses = lossesOf(run.events, stage);
    const steps = run.events.flatMap((event) =>
      event.type === "stage-progress" && event.stage === stage ? [event] : []
    );
    const first = steps.filter(({ done }) => done === 1).length;
    assert(first > 0 && losses.every(Number.isFinite), stage);
    const mean = (last: boolean) => {
      const chosen = steps.filter(({ done, total }) => last ? done === total : done === 1);
      return chosen.reduce((sum, { detail }) => sum + detail!.loss, 0) / chosen.length;
    };
    assert(mean(true) < mean(false), `${stage}: ${mean(false)} to ${mean(true)}`);
  }
  for (const each of factors.values()) assert(each.latents !== undefined);
});

Deno.test("blockTuning gives the same factors when the files between blocks are lost", async () => {
  await using whole = await openSmallRun();
  const expected = await whole.reconstruct({ retuneEpochs: 1, batchTokens: 36 });
  await using run = await openSmallRun();
  const [first, second] = run.model.blocks;
  await run.reconstruct({ retuneEpochs: 1, batchTokens: 36 }, [first]);
  await Deno.remove(`${run.context.scratch}/chain`, { recursive: true });
  const again = await run.reconstruct({ retuneEpochs: 1, batchTokens: 36 }, [second]);
  for (const { weight } of [...first.linears, ...second.linears]) {
    assertEquals(again.get(weight)!.A.words, expected.get(weight)!.A.words, weight);
    assertEquals(again.get(weight)!.a, expected.get(weight)!.a, weight);
  }
});

Deno.test("blockTuning refuses to run without calibration windows", async () => {
  await using run = await openSmallRun();
  const { model, checkpoint, jobs, importance } = run;
  const input = {
    block: 0,
    model,
    checkpoint,
    jobs,
    importance,
    calibration: [],
    wantsInputMoment: () => false,
    factorize: () => Promise.reject(new Error("not reached")),
    committed: () => Promise.resolve(undefined),
  };
  await assertRejects(
    () => blockTuning.run(input, v.parse(blockTuning.options, {}), run.context),
    RangeError,
    "0 calibration windows",
  );
});
