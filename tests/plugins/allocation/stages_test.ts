import { assert, assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import * as v from "valibot";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { byteBudget, signBitBudget } from "../../../pipeline/plan/allocation_budget.ts";
import { setField } from "../../../pipeline/cli/set_field.ts";
import type { TensorHandle } from "../../../pipeline/checkpoint/types.ts";
import type { DbfEvent } from "../../../pipeline/stream/events.ts";
import type {
  AllocationBudget,
  Candidate,
  LayerImportance,
  LayerShape,
  LayerStorage,
  Stage,
  StageContext,
} from "../../../pipeline/stream/stage.ts";
import { channelPruningAllocation } from "../../../plugins/allocation/channel_pruning.ts";
import { measuredAllocation } from "../../../plugins/allocation/measured.ts";
import { fakeFactors } from "../../pipeline/fake_stages.ts";
import { weightedNorm } from "../../../plugins/allocation/trial.ts";
import { uniformAllocation } from "../../../plugins/allocation/uniform.ts";

const LAYERS: readonly LayerShape[] = [["cheap", 48, 64], ["dear", 64, 48], ["wide", 32, 96]].map((
  [role, rows, cols],
) => ({ name: `${role}.weight`, block: 0, role: `${role}`, rows: Number(rows), cols: Number(cols) }));

const CALIBRATED: ReadonlyMap<string, LayerImportance> = new Map(LAYERS.map(({ name, role, rows, cols }) => [name, {
  input: new Float32Array(cols).fill(1),
  output: new Float32Array(rows).fill(role === "dear" ? 20 : 1),
}]));

function randomWeight({ name, rows, cols }: LayerShape, seed: number): Float32Array {
  let state = seed + name.length;
  const uniform = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  return Float32Array.from({ length: rows * cols }, () => uniform() + uniform() + uniform() - 1.5);
}

/** Handles that note the order in which weights are read. */
function handles(layers = LAYERS) {
  const read: string[] = [];
  const weight = (name: string): TensorHandle => {
    const layer = layers.find((each) => each.name === name)!;
    const values = randomWeight(layer, 3);
    const readRows = (start: number, end: number) => {
      if (read.at(-1) !== name) read.push(name);
      return Promise.resolve(values.slice(start * layer.cols, end * layer.cols));
    };
    return {
      name,
      dtype: "F32",
      shape: [layer.rows, layer.cols],
      file: "memory",
      readRows,
      read: () => readRows(0, layer.rows),
      bytes: () => {
        throw new Error("not used");
      },
    };
  };
  return { weight, read };
}

async function allocate<S extends Stage<"allocation">["options"]>(
  stage: Stage<"allocation", S>,
  options: Record<string, unknown>,
  {
    importance = CALIBRATED,
    signal = new AbortController().signal,
    scratch,
    candidates = new Map(),
    budget,
    layers = LAYERS,
  }: {
    readonly importance?: ReadonlyMap<string, LayerImportance>;
    readonly signal?: AbortSignal;
    readonly scratch?: string;
    readonly candidates?: ReadonlyMap<string, Candidate>;
    readonly budget?: AllocationBudget;
    readonly layers?: readonly LayerShape[];
  } = {},
) {
  await using runtime = await openRuntime({ threads: 1 });
  const events: DbfEvent[] = [];
  const { weight, read } = handles(layers);
  const offered: [string, number, string][] = [];
  const own = scratch ?? await Deno.makeTempDir();
  const context: StageContext = { runtime, signal, scratch: own, emit: (event) => void events.push(event) };
  const cleaned = scratch === undefined ? () => Deno.remove(own, { recursive: true }) : () => Promise.resolve();
  const ranks = await stage.run(
    {
      layers,
      bitsPerWeight: 1.5,
      budget: budget ?? signBitBudget(layers, 1.5),
      importance,
      weight,
      seed: 0,
      candidates,
      offer: ({ job, factors }) => offered.push([job.name, job.rank, factors.kind]),
    },
    v.parse(stage.options, options),
    context,
  ).finally(cleaned);
  return { ranks, events, read, offered };
}

const bitsOf = (ranks: ReadonlyMap<string, { readonly rank: number }>, role: string) => {
  const { name, rows, cols } = LAYERS.find((layer) => layer.role === role)!;
  return ranks.get(name)!.rank * (rows + cols) / (rows * cols);
};

for (const stage of [channelPruningAllocation, measuredAllocation] as const) {
  // both have the same shared options; a common type of the two would hide them
  const typed = stage as unknown as Stage<"allocation">;

  Deno.test(`${stage.name} gives more bits to the layer whose errors cost more loss, within the budget`, async () => {
    const { ranks, events, read, offered } = await allocate(typed, { iterations: 6 });
    assert(bitsOf(ranks, "dear") > bitsOf(ranks, "cheap") + 0.2);
    const spent = LAYERS.reduce((total, { name, rows, cols }) => total + ranks.get(name)!.rank * (rows + cols), 0);
    const elements = LAYERS.reduce((total, { rows, cols }) => total + rows * cols, 0);
    assert(spent <= 1.5 * elements && spent > 1.5 * elements - 2 * 128);
    for (const { reason } of ranks.values()) assert(/^\d\.\d\d bits/.test(reason), reason);

    const progress = events.filter((event) => event.type === "stage-progress");
    assertEquals(progress.map(({ stage, subject, done, total }) => [stage, subject, done, total]), [
      [stage.name, "cheap.weight", 1, 3],
      [stage.name, "dear.weight", 2, 3],
      [stage.name, "wide.weight", 3, 3],
    ]);
    // every trial is offered to the run
    assertEquals(offered.length, stage.name === "measured" ? 9 : 3);
    assertEquals(new Set(offered.map(([name, , kind]) => `${name} ${kind}`)).size, 3);
    // one layer at a time: a weight is never asked for again after the next one
    assertEquals(read, ["cheap.weight", "dear.weight", "wide.weight"]);
  });

  Deno.test(`${stage.name} gives the same ranks twice, and takes overrides without a trial`, async () => {
    const options = { iterations: 3, overrides: { "^cheap": 1 } };
    const first = await allocate(typed, options), second = await allocate(typed, options);
    assertEquals([...first.ranks], [...second.ranks]);
    assertEquals(first.read, ["dear.weight", "wide.weight"]);
    assertEquals(bitsOf(first.ranks, "cheap") <= 1, true);
    assertEquals(first.ranks.get("cheap.weight")!.reason.endsWith("override ^cheap"), true);
  });

  Deno.test(`${stage.name} goes on where an interrupted allocation was`, async () => {
    const scratch = await Deno.makeTempDir();
    try {
      const controller = new AbortController();
      const options = { iterations: 3 };
      const whole = await allocate(typed, options);
      const importance = new Map(CALIBRATED);
      const stopping = { ...CALIBRATED.get("wide.weight")! };
      Object.defineProperty(stopping, "input", {
        get: () => (controller.abort(new Error("stop")), CALIBRATED.get("wide.weight")!.input),
      });
      importance.set("wide.weight", stopping);
      await assertRejects(
        () => allocate(typed, options, { scratch, importance, signal: controller.signal }),
        Error,
        "stop",
      );
      const log = `${scratch}/trials.jsonl`;
      await Deno.writeTextFile(log, '["torn', { append: true });
      const resumed = await allocate(typed, options, { scratch });
      assertEquals([...resumed.ranks], [...whole.ranks]);
      assertEquals(new Set(resumed.offered.map(([name]) => name)), new Set(["wide.weight"]));
      assertEquals((await allocate(typed, options, { scratch })).offered, []);
    } finally {
      await Deno.remove(scratch, { recursive: true });
    }
  });

  Deno.test(`${stage.name} gives layers of one role and shape one middle dimension in each group of blocks`, async () => {
    const layers = [0, 1, 2].flatMap((block): LayerShape[] => [
      { name: `${block}.up.weight`, block, role: "up", rows: 48, cols: 64 },
      { name: `${block}.down.weight`, block, role: "down", rows: 64, cols: 48 },
    ]);
    const importance = new Map(layers.map(({ name, block, rows, cols }) => [name, {
      input: new Float32Array(cols).fill(1),
      output: new Float32Array(rows).fill(block === 0 ? 20 : 1),
    }]));
    const ranksWith = async (options: Record<string, unknown>) => {
      const { ranks } = await allocate(typed, { iterations: 3, ...options }, { layers, importance });
      const spent = layers.reduce((sum, { name, rows, cols }) => sum + ranks.get(name)!.rank * (rows + cols), 0);
      assert(spent <= 6 * 1.5 * 48 * 64, `${spent}`);
      return layers.map(({ name }) => ranks.get(name)!);
    };
    const one = await ranksWith({ groups: 1 });
    assertEquals(one.map(({ rank }) => rank), [0, 1, 2].flatMap(() => [one[0].rank, one[1].rank]));
    assert(one[0].reason.includes(", one choice for 3 layers: "), one[0].reason);
    const two = await ranksWith({ groups: 2 });
    assertEquals(two.slice(2, 4).map(({ rank }) => rank), two.slice(4).map(({ rank }) => rank));
    assert(two[0].rank > two[2].rank && two[1].rank > two[3].rank, JSON.stringify(two.map(({ rank }) => rank)));
    const fixed = await ranksWith({ groups: 1, overrides: { "1.up": 2 } });
    assertEquals(fixed[0].rank, fixed[4].rank);
    assert(fixed[2].reason.endsWith("override 1.up"), fixed[2].reason);
    const proposed = stage.propose!(
      { layers, bitsPerWeight: 1.5, budget: signBitBudget(layers, 1.5) },
      // the stage's own parsed options, of which the loop knows no common type
      v.parse(stage.options, { groups: 2 }) as never,
    );
    const start = layers.map(({ name }) => proposed!.ranks.get(name)!.rank);
    assertEquals(start, [0, 1, 2].flatMap(() => start.slice(0, 2)));
  });

  Deno.test(`${stage.name} says when layers have no importance, and stops when aborted`, async () => {
    const { events } = await allocate(typed, { iterations: 2 }, { importance: new Map() });
    assert(events.some((event) => event.type === "notice" && event.message.includes("3 of 3 layers by plain")));
    await assertRejects(() => allocate(typed, {}, { signal: AbortSignal.abort(new Error("enough")) }), Error, "enough");
  });
}

Deno.test("measured takes a candidate where it saves more a byte, within the size, and says so", async () => {
  const made: string[] = [];
  const storageFor = ({ rows, cols }: LayerShape, bits: number): LayerStorage => ({
    kind: "nbits",
    ranked: false,
    codeBits: bits * rows * cols,
    packedBytes: bits * rows * cols / 8,
    scales: rows,
  });
  const candidate = (weightedError: number, bits: number): Candidate => ({
    identity: [weightedError, bits],
    stores: (layer) => layer.role === "wide" ? undefined : storageFor(layer, bits),
    make(layer) {
      made.push(layer.role);
      return Promise.resolve({
        ...fakeFactors({ ...layer, rank: 1, seed: 1 }, new Float32Array(layer.cols)),
        weightedError,
      });
    },
  });
  const budget = byteBudget(10_000, 2000, 2);
  const options = { iterations: 3 };
  const good = new Map([["exact", candidate(1e-6, 3)]]), bad = new Map([["poor", candidate(0.9, 8)]]);
  const { ranks } = await allocate(measuredAllocation, options, { budget, candidates: good });
  assertEquals([...new Set(made)], ["cheap", "dear"]); // it does not take the wide layer
  assertEquals([ranks.get("dear.weight")?.rank, ranks.get("dear.weight")?.method], [0, "exact"]);
  assert(/^exact: loss .* a byte$/.test(ranks.get("dear.weight")!.reason), ranks.get("dear.weight")!.reason);
  assertEquals(ranks.get("wide.weight")!.method, undefined);
  const spent = LAYERS.reduce((total, layer) => {
    const { rank, method } = ranks.get(layer.name)!;
    return total + (method === undefined ? budget.cost(layer, rank) : budget.costOf(storageFor(layer, 3)));
  }, 0);
  assert(spent <= budget.total, `${spent} of ${budget.total}`);

  const without = await allocate(measuredAllocation, options, { budget });
  const refused = await allocate(measuredAllocation, options, { budget, candidates: bad });
  assertEquals([...refused.ranks], [...without.ranks]);
});

Deno.test("uniform shares what overrides leave equally, and keeps its plain formula without them", async () => {
  const plain = await allocate(uniformAllocation, {});
  assertEquals([...plain.ranks.values()].map(({ rank }) => rank), [41, 41, 36]);
  const { ranks } = await allocate(uniformAllocation, { overrides: { dear: 2.5 } });
  assertAlmostEquals(bitsOf(ranks, "dear"), 2.5, 0.04);
  assertAlmostEquals(bitsOf(ranks, "cheap"), 1, 0.05);
  assertAlmostEquals(bitsOf(ranks, "wide"), 1, 0.05);
});

Deno.test("weightedNorm() is the sum over rows and columns, read by panels", async () => {
  const { weight } = handles();
  const [layer] = LAYERS;
  const importance = {
    input: Float32Array.from({ length: 64 }, (_, j) => j / 8),
    output: Float32Array.from({ length: 48 }, (_, i) => 1 + i),
  };
  const values = randomWeight(layer, 3);
  let expected = 0;
  for (let i = 0; i < 48; i++) {
    for (let j = 0; j < 64; j++) expected += importance.output[i] * values[i * 64 + j] ** 2 * importance.input[j];
  }
  const { signal } = new AbortController();
  assertAlmostEquals(await weightedNorm(layer, weight(layer.name), importance, signal), expected, 1e-9 * expected);
});

Deno.test("--set writes overrides in short form, as one name, or as JSON", () => {
  const recipe = {};
  setField(recipe, "allocation=measured");
  setField(recipe, "v_proj=2.5");
  setField(recipe, "allocation.overrides.o_proj=2");
  setField(recipe, "layers\\.0\\.mlp=3");
  const overrides = { v_proj: 2.5, o_proj: 2, "layers\\.0\\.mlp": 3 };
  assertEquals(recipe, { stages: { allocation: { use: "measured", options: { overrides } } } });
  setField(recipe, 'allocation.overrides={"layers\\\\.0\\\\.":3}');
  assertEquals(recipe, { stages: { allocation: { use: "measured", options: { overrides: { "layers\\.0\\.": 3 } } } } });
});

Deno.test("--set takes no misspelt field for an override, and no text for bits", () => {
  assertThrows(() => setField({}, "seeds=3"), TypeError, 'did you mean "seed"?');
  assertThrows(() => setField({}, "factorisation.iterations=3"), TypeError, 'did you mean "factorization"?');
  const recipe = {};
  setField(recipe, "v_proj=much");
  assertEquals(recipe, { v_proj: "much" }); // refused as an unknown field when the recipe is parsed
});
