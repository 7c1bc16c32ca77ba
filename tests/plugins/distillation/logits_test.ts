import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { defaultRates } from "../../../pipeline/calibrate/default_rates.ts";
import { cosineFactor } from "../../../pipeline/calibrate/schedule.ts";
import { factorsOfKind } from "../../../pipeline/stream/factors.ts";
import type { DbfFactors } from "../../../pipeline/stream/stage.ts";
import { distil as distilFactors, lossesOf, openSmallRun } from "../reconstruction/small_run.ts";

type Run = Awaited<ReturnType<typeof openSmallRun>>;

/** Distils the run's own factors. */
async function distil(run: Run, options: Record<string, unknown>) {
  const { committed, result } = await distilFactors(run, run.factors, options);
  const factors = [...committed].map(([name, each]): [string, DbfFactors] => [name, factorsOfKind(name, each, "dbf")]);
  return { committed: new Map(factors), result };
}

Deno.test("logitDistillation lowers the divergence, flips signs and commits every layer", async () => {
  await using run = await openSmallRun();
  await run.reconstruct({ retuneEpochs: 0, batchTokens: 36 });
  const { committed, result } = await distil(run, { epochs: 20 });
  const losses = lossesOf(run.events, "logits");
  assertEquals(losses.length, 60);
  assert(result.loss < 0.8 * losses[0], `${losses[0]} to ${result.loss}`);
  assert(result.flipped > 0 && result.flipped < 0.5);
  assertEquals(committed.size, 14);
  for (const [name, each] of committed) assertEquals(each.A.words.length, run.factors.get(name)!.A.words.length);
});

Deno.test("logitDistillation gives the same factors with state in files as on the device", async () => {
  await using run = await openSmallRun();
  await run.reconstruct({ retuneEpochs: 0, batchTokens: 36 });
  const resident = await distil(run, { epochs: 2 });
  const spilled = await distil(run, { epochs: 2, residentBytes: 0 });
  for (const [name, each] of resident.committed) {
    assertEquals(spilled.committed.get(name)!.A.words, each.A.words);
    assertEquals(spilled.committed.get(name)!.mid, each.mid);
  }
});

Deno.test("logitDistillation gives the same factors with a teacher of all windows as with one of one or two steps", async () => {
  await using run = await openSmallRun();
  await run.reconstruct({ retuneEpochs: 0, batchTokens: 36 });
  const whole = await distil(run, { epochs: 3 });
  const batchBytes = 4 * 36 * run.model.hiddenSize;
  for (const teacherBytes of [0, batchBytes, 2 * batchBytes]) {
    const { committed, result } = await distil(run, { epochs: 3, teacherBytes });
    assertEquals(committed, whole.committed);
    assertEquals(result, whole.result);
  }
});

Deno.test("logitDistillation's momentum is that of its optimizer: nothing to a first step, and another path afterwards", async () => {
  await using run = await openSmallRun();
  await run.reconstruct({ retuneEpochs: 0, batchTokens: 36 });
  const [name] = run.factors.keys();
  const scalesAfter = async (epochs: number, momentum: number) =>
    (await distil(run, { epochs, momentum })).committed.get(name)!.mid;
  // a bias-corrected mean of one gradient is that gradient, whatever β₁
  const [once, light] = [await scalesAfter(1 / 3, 0.9), await scalesAfter(1 / 3, 0.5)];
  once.forEach((value, at) =>
    assert(Math.abs(value - light[at]) <= 1e-5 * Math.abs(value), `${value} and ${light[at]}`)
  );
  const [longer, lighter] = [await scalesAfter(2, 0.9), await scalesAfter(2, 0.5)];
  const furthest = Math.max(...longer.map((value, at) => Math.abs(value / lighter[at] - 1)));
  assert(furthest > 1e-3, `${furthest}`);
});

/** Rate of latents in the first step of a distillation of 3000, which is ended there. */
async function firstRate(run: Run, factors: ReadonlyMap<string, DbfFactors>, options: Record<string, unknown>) {
  const controller = new AbortController();
  let rate: number | undefined;
  const emit: Run["context"]["emit"] = (event) => {
    if (event.type !== "stage-progress") return;
    assertEquals(event.total, 3000);
    rate = event.detail?.rate;
    controller.abort(new Error("stopped"));
  };
  const stopped = { ...run, context: { ...run.context, signal: controller.signal, emit } };
  await assertRejects(() => distilFactors(stopped, factors, { epochs: 1000, ...options }), Error, "stopped");
  return rate!;
}

Deno.test("logitDistillation's rate follows from its length, the layers' bits and where latents begin, where none is given", async () => {
  await using run = await openSmallRun();
  await run.reconstruct({ retuneEpochs: 0, batchTokens: 36 });
  const warm = cosineFactor(0, 3000);
  const equal = new Map([...run.factors].map(([name, each]) => [name, { ...each, latents: undefined }]));
  const expected = (start: "factorized" | "equal") => defaultRates(run.jobs, 3000, start).signs * warm;
  assertAlmostEquals(await firstRate(run, run.factors, {}), expected("factorized"));
  assertAlmostEquals(await firstRate(run, equal, {}), expected("equal"));
  assert(expected("equal") < expected("factorized"));
  assertAlmostEquals(await firstRate(run, run.factors, { signRate: 0.3 }), 0.3 * warm);
});

for (const batches of [undefined, 2]) {
  const teacher = batches === undefined ? "of all windows" : `of ${batches} steps`;
  Deno.test(`logitDistillation goes on from its saved state after an interruption, with a teacher ${teacher}`, async () => {
    await checkResumed(batches);
  });
}

/** Interrupts a distillation of 9 steps after the fifth, which is the first of its chunk of two. */
async function checkResumed(batches: number | undefined): Promise<void> {
  await using run = await openSmallRun();
  await run.reconstruct({ retuneEpochs: 0, batchTokens: 36 });
  const teacher = batches === undefined ? {} : { teacherBytes: batches * 4 * 36 * run.model.hiddenSize };
  const whole = await distil(run, { epochs: 3, saveSeconds: 0 });
  const controller = new AbortController();
  const interrupted: Run = {
    ...run,
    context: {
      ...run.context,
      signal: controller.signal,
      emit: (event) => {
        if (event.type === "stage-progress" && event.done === 5) controller.abort(new Error("stopped"));
      },
    },
  };
  await assertRejects(() => distil(interrupted, { epochs: 3, saveSeconds: 0, ...teacher }), Error, "stopped");
  run.events.length = 0;
  const resumed = await distil(run, { epochs: 3, saveSeconds: 0, ...teacher });
  assertEquals(lossesOf(run.events, "logits").length, 4); // steps 6 to 9
  for (const [name, each] of whole.committed) {
    assertEquals(resumed.committed.get(name)!.A.words, each.A.words);
    assertEquals(resumed.committed.get(name)!.b, each.b);
  }
}
