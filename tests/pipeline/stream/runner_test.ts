import { assert, assertEquals, assertLessOrEqual, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import type { DbfEvent } from "../../../pipeline/stream/events.ts";
import { createLease } from "../../../pipeline/stream/lease.ts";
import { orderedMap } from "../../../pipeline/stream/ordered_map.ts";
import { runJobs, type RunJobsOptions } from "../../../pipeline/stream/runner.ts";
import { tensorSeed } from "../../../pipeline/stream/seed.ts";

type Options = RunJobsOptions<number, number, number, string>;
const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

function options(overrides: Partial<Options> & { log?: string[]; delay?: (job: number) => number } = {}): Options {
  const delay = overrides.delay ?? (() => 0);
  return {
    jobs: Array.from({ length: 12 }, (_, i) => i),
    subject: (job) => `layer ${job}`,
    peakBytes: () => 10,
    lease: createLease(35),
    read: { name: "read", run: async (job) => (await sleep(delay(job)), job) },
    factorize: { name: "factorize", run: async (job, value) => (await sleep(delay(job + 5)), value * value) },
    pack: { name: "pack", run: (_, value) => Promise.resolve(`#${value}`) },
    commit: { name: "commit", run: (job, value) => Promise.resolve(void overrides.log?.push(`${job}:${value}`)) },
    signal: new AbortController().signal,
    emit: () => {},
    ...overrides,
  };
}

for (const parallel of [1, 2, 4]) {
  Deno.test(`runJobs() commits in order with the same results under --parallel ${parallel} and random delays`, async () => {
    const log: string[] = [];
    const lease = createLease(35);
    const delay = (job: number) => tensorSeed(parallel, String(job)) % 7;
    assertEquals(await runJobs(options({ log, delay, parallel, lease })), 12);
    assertEquals(log, Array.from({ length: 12 }, (_, i) => `${i}:#${i * i}`));
    assertLessOrEqual(lease.peak, 30);
    assertEquals(lease.inUse, 0);
  });
}

Deno.test("runJobs() works at a lease of one job: nothing waits for bytes that only it could free", async () => {
  const log: string[] = [];
  const lease = createLease(10);
  await runJobs(options({ log, parallel: 4, lease }));
  assertEquals([log.length, lease.peak], [12, 10]);
});

Deno.test("runJobs() holds the source back: jobs are drawn only as the lease allows", async () => {
  let drawn = 0;
  let committed = 0;
  let most = 0;
  await runJobs(options({
    jobs: (function* () {
      for (let i = 0; i < 30; i++) {
        drawn++;
        most = Math.max(most, drawn - committed);
        yield i;
      }
    })(),
    commit: { name: "commit", run: async () => (await sleep(1), void committed++) },
    parallel: 2,
  }));
  assertLessOrEqual(most, 3 + 1 + 1); // three reserved, one waiting for bytes, one on its way out of commit
});

Deno.test("runJobs() stops at the first error, names the layer and waits for what is in flight", async () => {
  const log: string[] = [];
  const lease = createLease(100);
  let inFlight = 0;
  const error = await assertRejects(
    () =>
      runJobs(options({
        log,
        lease,
        parallel: 3,
        factorize: {
          name: "my-stage",
          run: async (job, value, signal) => {
            inFlight++;
            try {
              if (job === 4) throw new TypeError("shape is wrong");
              await sleep(job > 4 ? 20 : 1);
              if (job > 4) assert(signal.aborted);
              return value;
            } finally {
              inFlight--;
            }
          },
        },
      })),
    Error,
    'Cannot finish "layer 4" in my-stage: shape is wrong',
  );
  assert(error.cause instanceof TypeError);
  assertEquals([inFlight, lease.inUse], [0, 0]);
  assert(log.length <= 4);
  assertEquals(log, log.map((_, i) => `${i}:#${i}`));
});

Deno.test("runJobs() rejects with the signal's reason when aborted, and commits nothing more", async () => {
  const controller = new AbortController();
  const log: string[] = [];
  const reason = new DOMException("interrupted", "AbortError");
  const lease = createLease(35);
  const error = await assertRejects(() =>
    runJobs(options({
      log,
      lease,
      signal: controller.signal,
      emit: (event: DbfEvent) => {
        if (event.type === "stage-end" && event.stage === "commit" && event.subject === "layer 2") {
          controller.abort(reason);
        }
      },
    }))
  );
  assertEquals(error, reason);
  const after = log.length;
  await sleep(10);
  assertEquals([log.length, lease.inUse], [after, 0]);
  assertEquals(log.slice(0, 3), ["0:#0", "1:#1", "2:#4"]);
});

Deno.test("runJobs() passes on an error of the job list and of a lease that is too small", async () => {
  await assertRejects(
    () =>
      runJobs(options({
        jobs: (function* () {
          yield 1;
          throw new Error("no more");
        })(),
      })),
    Error,
    "no more",
  );
  await assertRejects(() => runJobs(options({ lease: createLease(9) })), RangeError, "layer 0");
});

Deno.test("orderedMap() refuses a parallelism below one", () => {
  assertThrows(() => orderedMap(() => Promise.resolve(1), { parallel: 0 }), RangeError, "--parallel");
});

Deno.test("tensorSeed() depends on the run seed and the name, and spreads", () => {
  const seeds = new Set(Array.from({ length: 1000 }, (_, i) => tensorSeed(0, `model.layers.${i}.weight`)));
  assertEquals(seeds.size, 1000);
  assertNotEquals(tensorSeed(0, "a"), tensorSeed(1, "a"));
  assert([...seeds].every((seed) => Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32));
});
