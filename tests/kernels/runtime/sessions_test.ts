import { assert, assertEquals, assertLess, assertRejects, assertStringIncludes } from "@std/assert";
import { doubleModel, elapsed, identityModel, incrementModel, open, provider, slowModel } from "./graphs.ts";

/** A matrix whose square is itself, so that products in a loop keep their size. */
function idempotent(size: number): Float32Array {
  return new Float32Array(size * size).fill(1 / size);
}

Deno.test("a loop of 100 runs keeps its tensors on the device", async () => {
  await using runtime = await open();
  await using session = await runtime.load(incrementModel());
  using first = runtime.tensor("float32", new Float32Array(1000), [1000]);
  using second = runtime.empty("float32", [1000]);
  let [from, to] = [first, second];
  for (let step = 0; step < 100; step++) {
    await session.run({ x: from }, { into: { y: to } });
    [from, to] = [to, from];
  }
  assertEquals(from.device, provider === "webgpu" ? "cpu" : provider);
  assert((await from.read() as Float32Array).every((value) => value === 100));
});

Deno.test("run() writes over a tensor that it is fed only where inPlace allows it", async () => {
  await using runtime = await open();
  await using session = await runtime.load(incrementModel());
  using x = runtime.tensor("float32", Float32Array.of(1, -2), [2]);
  if (runtime.binding === "c-api") {
    await assertRejects(() => session.run({ x }, { into: { y: x } }), TypeError, "two tensors in turn");
  }
  for (let step = 0; step < 3; step++) await session.run({ x }, { into: { y: x }, inPlace: true });
  assertEquals(await x.read(), Float32Array.of(4, 1));
});

Deno.test("outputs of one session feed another one directly", async () => {
  await using runtime = await open();
  await using increment = await runtime.load(incrementModel());
  await using copy = await runtime.load(identityModel("float32", ["n"]));
  using x = runtime.tensor("float32", Float32Array.of(1, 2), [2]);
  const { y } = await increment.run({ x });
  const { y: z } = await copy.run({ x: y });
  y[Symbol.dispose]();
  assertEquals(await z.read(), Float32Array.of(2, 3));
  z[Symbol.dispose]();
});

Deno.test("run() ends within 100 ms of its signal and rejects with the reason", async () => {
  await using runtime = await open();
  await using session = await runtime.load(slowModel(64));
  using x = runtime.tensor("float32", idempotent(64), [64, 64]);
  using count = runtime.tensor("int64", BigInt64Array.of(100_000_000n), []);
  for (let attempt = 0; attempt < 3; attempt++) {
    const controller = new AbortController();
    const reason = new Error(`enough ${attempt}`);
    let abortedAt = 0;
    setTimeout(() => {
      abortedAt = performance.now();
      controller.abort(reason);
    }, 50);
    const error = await assertRejects(() => session.run({ x, count }, { signal: controller.signal }), Error);
    assert(error === reason, String(error));
    // WebGPU ends what its queue holds first.
    if (provider !== "webgpu") assertLess(performance.now() - abortedAt, 100);
  }
  const aborted = AbortSignal.abort(new Error("before"));
  await assertRejects(() => session.run({ x, count }, { signal: aborted }), Error, "before");
  using few = runtime.tensor("int64", BigInt64Array.of(2n), []);
  const { y } = await session.run({ x, count: few });
  assertEquals(y.shape, [64, 64]);
  y[Symbol.dispose]();
});

Deno.test("a timer of 5 ms keeps ticking during a long run, and during many short ones", async () => {
  await using runtime = await open();
  await using slow = await runtime.load(slowModel(64));
  await using quick = await runtime.load(incrementModel());
  using matrix = runtime.tensor("float32", idempotent(64), [64, 64]);
  using count = runtime.tensor("int64", BigInt64Array.of(100_000_000n), []);
  using vector = runtime.tensor("float32", Float32Array.of(1), [1]);
  let ticks = 0;
  const timer = setInterval(() => ticks++, 5);
  try {
    await slow.run({ x: matrix, count }, { signal: AbortSignal.timeout(400) }).catch(() => {});
    assert(ticks > 20, `${ticks} ticks in 400 ms of one run`);
    ticks = 0;
    const end = performance.now() + 400;
    while (performance.now() < end) (await quick.run({ x: vector })).y[Symbol.dispose]();
    assert(ticks > 20, `${ticks} ticks in 400 ms of short runs`);
  } finally {
    clearInterval(timer);
  }
});

Deno.test("concurrent runs of one session give their own results", async () => {
  await using runtime = await open();
  await using session = await runtime.load(doubleModel());
  const sums = await Promise.all(Array.from({ length: 32 }, async (_, index) => {
    using x = runtime.tensor("float32", new Float32Array(200 * 300).fill(index), [200, 300]);
    const { y } = await session.run({ x });
    const data = await y.read() as Float32Array;
    y[Symbol.dispose]();
    return data.every((value) => value === 2 * index);
  }));
  assert(sums.every(Boolean));
});

Deno.test("disposing session, tensors and runtime waits for the run in flight", async () => {
  const runtime = await open();
  const session = await runtime.load(slowModel(128));
  const x = runtime.tensor("float32", idempotent(128), [128, 128]);
  const count = runtime.tensor("int64", BigInt64Array.of(300n), []);
  let ended = false;
  const run = session.run({ x, count }).then((outputs) => {
    ended = true;
    return outputs;
  });
  x[Symbol.dispose]();
  count[Symbol.dispose]();
  const disposal = session[Symbol.asyncDispose]();
  await assertRejects(() => session.run({ x, count }), Error, "the session was disposed");
  await Promise.all([runtime[Symbol.asyncDispose](), disposal]);
  assert(ended);
  const { y } = await run;
  // A tensor outlives its session and runtime.
  const values = await y.read() as Float32Array;
  assert(values.every((value) => Math.abs(value - 1 / 128) < 1e-6));
  y[Symbol.dispose]();
  await session[Symbol.asyncDispose]();
  await assertRejects(() => runtime.load(incrementModel()), Error, "closed");
});

Deno.test("sessions and runs leave nothing behind", async () => {
  await using runtime = await open();
  const model = doubleModel();
  const cycle = async (sessions: number, runs: number) => {
    for (let index = 0; index < sessions; index++) {
      await using session = await runtime.load(model);
      using x = runtime.tensor("float32", new Float32Array(64 * 64).fill(1), [64, 64]);
      for (let run = 0; run < runs; run++) (await session.run({ x })).y[Symbol.dispose]();
    }
  };
  await cycle(20, 200);
  const before = Deno.memoryUsage().rss;
  await cycle(60, 200);
  const grown = Deno.memoryUsage().rss - before;
  // 12,000 outputs of 16 KiB are 190 MiB; 60 sessions of a leaked arena would be as much.
  assertLess(grown, 48 * 2 ** 20);
});

Deno.test("cudaGraph replays what it recorded for each set of tensors, and changes nothing on other providers", async () => {
  await using runtime = await open();
  await using session = await runtime.load(incrementModel(), { cudaGraph: true });
  let from = runtime.tensor("float32", Float32Array.of(1, -2, 0.5), [3]);
  let to = runtime.empty("float32", [3]);
  for (let step = 0; step < 10; step++) {
    await session.run({ x: from }, { into: { y: to } });
    [from, to] = [to, from];
  }
  assertEquals(await from.read(), Float32Array.of(11, 8, 10.5));
  if (provider === "cuda") await assertRejects(() => session.run({ x: from }), TypeError, 'output "y" has no tensor');
  else (await session.run({ x: from })).y[Symbol.dispose]();
  from[Symbol.dispose]();
  to[Symbol.dispose]();
});

Deno.test("memoryPattern off gives the same results", async () => {
  await using runtime = await open();
  await using session = await runtime.load(slowModel(8), { memoryPattern: false });
  await using usual = await runtime.load(slowModel(8));
  using x = runtime.tensor("float32", Float32Array.from({ length: 64 }, (_, i) => i / 512), [8, 8]);
  using count = runtime.tensor("int64", BigInt64Array.of(3n), []);
  for (let run = 0; run < 3; run++) {
    using y = (await session.run({ x, count })).y;
    using expected = (await usual.run({ x, count })).y;
    assertEquals(await y.read(), await expected.read());
  }
});

Deno.test("profilePrefix writes a profile of the session's operators", async () => {
  const directory = await Deno.makeTempDir();
  try {
    await using runtime = await open();
    {
      await using session = await runtime.load(incrementModel(), { profilePrefix: `${directory}/profile` });
      using x = runtime.tensor("float32", Float32Array.of(1), [1]);
      (await session.run({ x })).y[Symbol.dispose]();
    }
    const files = Array.from(Deno.readDirSync(directory), (entry) => entry.name);
    assertEquals(files.length, 1);
    assertStringIncludes(await Deno.readTextFile(`${directory}/${files[0]}`), "Add");
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("threads gives the same result, and more threads are not slower by a factor", async () => {
  await using runtime = await open({ threads: 2 });
  const model = slowModel(64);
  await using one = await runtime.load(model, { threads: 1 });
  await using two = await runtime.load(model);
  using x = runtime.tensor("float32", idempotent(64), [64, 64]);
  using count = runtime.tensor("int64", BigInt64Array.of(50n), []);
  const first = await one.run({ x, count });
  const second = await two.run({ x, count });
  assertEquals(await first.y.read(), await second.y.read());
  for (const { y } of [first, second]) y[Symbol.dispose]();
  const run = async (session: typeof one) => (await session.run({ x, count })).y[Symbol.dispose]();
  assertLess(await elapsed(() => run(two)), 100 * await elapsed(() => run(one)) + 100);
});
