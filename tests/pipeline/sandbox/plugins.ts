/** Third-party stages for tests of the sandbox: they use what their kind is given, and try what they may not. */
import * as v from "valibot";
import type { Runtime } from "../../../kernels/runtime/types.ts";
import { defineStage } from "../../../pipeline/stream/stage.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { encodeModel } from "../../../pipeline/graph/encode.ts";
import { bits32 } from "../../../plugins/packing/bits32.ts";
import { fakeFactors } from "../fake_stages.ts";

/** What a sandboxed stage must not be able to do; returns what it could. */
export function forbidden(): string[] {
  const attempts: Record<string, () => unknown> = {
    read: () => Deno.readTextFileSync("/etc/hostname"),
    write: () => Deno.writeTextFileSync("/tmp/dbf-sandbox-escape", "x"),
    env: () => Deno.env.get("HOME"),
    run: () => new Deno.Command("true").outputSync(),
    ffi: () => Deno.dlopen("libc.so.6", {}),
    sys: () => Deno.hostname(),
    net: () => Deno.listen({ port: 0 }),
  };
  return Object.entries(attempts).flatMap(([name, attempt]) => {
    try {
      attempt();
      return [name];
    } catch {
      return [];
    }
  });
}

/** 2·row by a graph on the run's runtime. */
async function doubled(runtime: Runtime, row: Float32Array): Promise<Float32Array> {
  const graph = createGraph("twice");
  const x = graph.input("x", "float32", [row.length]);
  graph.output("y", graph.node("Add", [x, x])[0]);
  await using session = await runtime.load(encodeModel(graph));
  using fed = runtime.tensor("float32", row, [row.length]);
  using y = (await session.run({ x: fed })).y;
  return await y.read() as Float32Array;
}

export const factorization = defineStage({
  kind: "factorization",
  scope: "layer",
  name: "boxed",
  version: "1.0.0",
  description: "Seeded signs, and a scale that a graph computed; or what the option says.",
  options: v.strictObject({
    mode: v.optional(v.picklist(["good", "escape", "throw", "hang", "await"]), "good"),
    effort: v.optional(v.picklist(["fast", "balanced", "best"]), "balanced"),
  }),
  filter: { minElements: 64 },
  estimate: ({ rows, cols }) => ({ peakBytes: 4 * rows * cols }),
  async run({ job, weight }, { mode }, { runtime, emit }) {
    if (mode === "throw") throw new RangeError("told to fail");
    if (mode === "hang") { for (;;); }
    if (mode === "await") await new Promise(() => {});
    const found = mode === "escape" ? forbidden() : [];
    if (found.length > 0) throw new Error(`could ${found.join(", ")}`);
    const first = await weight.readRows(0, 1);
    emit({ type: "stage-progress", stage: "boxed", subject: job.name, done: 1, total: 1 });
    return { ...fakeFactors(job, first), b: await doubled(runtime, first) };
  },
});

export const allocation = defineStage({
  kind: "allocation",
  scope: "model",
  name: "boxed-ranks",
  version: "1.0.0",
  description: "Ranks from the weights' first rows, read by name.",
  options: v.strictObject({ rank: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1)), 8) }),
  estimate: () => ({ peakBytes: 0 }),
  async run({ layers, weight, budget, bitsPerWeight }, { rank }) {
    const all = layers.reduce((sum, { rows, cols }) => sum + rows * cols, 0);
    const spent = layers.reduce((sum, layer) => sum + budget.cost(layer, rank), 0);
    if (budget.unit !== "sign bits" || budget.total > all * bitsPerWeight) throw new Error("not a budget of sign bits");
    if (spent > budget.total) throw budget.tooSmall(spent, `rank ${rank} is asked for`);
    const ranks = new Map<string, { rank: number; reason: string }>();
    for (const { name, cols } of layers) {
      const row = await weight(name).readRows(0, 1);
      if (row.length !== cols) throw new Error("not a row");
      ranks.set(name, { rank, reason: "boxed" });
    }
    return ranks;
  },
});

export const importance = defineStage({
  kind: "importance",
  scope: "model",
  name: "boxed-norms",
  version: "1.0.0",
  description: "The first row squared, through the checkpoint.",
  options: v.strictObject({}),
  estimate: () => ({ peakBytes: 0 }),
  async run({ checkpoint, layers }) {
    const scores = new Map<string, { input: Float32Array; output: Float32Array }>();
    for (const { name, rows } of layers) {
      const row = await checkpoint.tensor(name).readRows(0, 1);
      scores.set(name, { input: row.map((x) => x * x), output: new Float32Array(rows).fill(1) });
    }
    return scores;
  },
});

export const reconstruction = defineStage({
  kind: "reconstruction",
  scope: "block",
  name: "boxed-block",
  version: "1.0.0",
  description: "Factorizes each layer of the block as a weight of its own, twice the checkpoint's.",
  options: v.strictObject({}),
  estimate: () => ({ peakBytes: 1 }),
  async run({ jobs, checkpoint, factorize }) {
    const made = new Map<string, Awaited<ReturnType<typeof factorize>>>();
    for (const job of jobs) {
      const original = checkpoint.tensor(job.name);
      const readRows = async (start: number, end: number) => (await original.readRows(start, end)).map((x) => 2 * x);
      const own = { ...original, readRows, read: () => readRows(0, job.rows) };
      made.set(job.name, await factorize(job, own));
    }
    return made;
  },
});

export const packing = defineStage({
  kind: "packing",
  scope: "layer",
  name: "boxed-words",
  version: "1.0.0",
  description: "As bits32, with a note in the attributes; or what the option says.",
  options: v.strictObject({ mode: v.optional(v.picklist(["good", "escape", "wrong"]), "good") }),
  estimate: ({ rows, cols }) => ({ peakBytes: rows * cols }),
  async run(input, { mode }, context) {
    const found = mode === "escape" ? forbidden() : [];
    if (found.length > 0) throw new Error(`could ${found.join(", ")}`);
    if (mode === "wrong") return "not a layer" as never;
    const packed = await bits32.run(input, {}, context);
    return { ...packed, attributes: { ...packed.attributes, note: `boxed ${input.job.name}` } };
  },
});

export const distillation = defineStage({
  kind: "distillation",
  scope: "model",
  name: "boxed-scales",
  version: "1.0.0",
  description: "Doubles the scales of every second layer by a graph and turns its first sign; or what the option says.",
  options: v.strictObject({ mode: v.optional(v.picklist(["good", "escape", "stranger", "throw"]), "good") }),
  estimate: () => ({ peakBytes: 1 }),
  async run({ jobs, checkpoint, calibration, importance, factors, commit }, { mode }, { runtime, emit }) {
    const found = mode === "escape" ? forbidden() : [];
    if (found.length > 0) throw new Error(`could ${found.join(", ")}`);
    let signs = 0;
    for (const [index, job] of jobs.entries()) {
      const before = await factors(job.name);
      if (before.kind !== "dbf") throw new Error("not of signs");
      signs += before.rank * (job.rows + job.cols);
      const first = await checkpoint.tensor(job.name).readRows(0, 1);
      if (first.some((value, at) => value !== before.b[at]) && index === 0) throw new Error("not the layer's factors");
      if (index % 2 === 1) continue;
      const words = before.A.words.slice();
      words[0] ^= 1;
      await commit(job.name, { ...before, A: { ...before.A, words }, b: await doubled(runtime, before.b) });
      emit({ type: "stage-progress", stage: "boxed-scales", subject: job.name, done: index + 1, total: jobs.length });
      if (mode === "throw") throw new RangeError("told to fail");
      if (mode === "stranger") await commit("model.norm.weight", before);
    }
    return { loss: calibration.length + importance.size / 1000, flipped: Math.ceil(jobs.length / 2) / signs };
  },
});
