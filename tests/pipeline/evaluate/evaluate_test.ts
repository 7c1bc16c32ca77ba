import { assertAlmostEquals, assertEquals, assertLess, assertRejects } from "@std/assert";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { readTokens } from "../../../pipeline/calibrate/text.ts";
import { evaluate } from "../../../pipeline/evaluate/evaluate.ts";
import { scoreGraph } from "../../../pipeline/evaluate/score_graph.ts";
import { perplexityOf } from "../../../pipeline/evaluate/statistics.ts";
import type { DbfEvent } from "../../../pipeline/stream/events.ts";
import { fixture } from "../model/golden.ts";
import { openTinyLlama } from "./tiny_model.ts";

const HELDOUT = `${fixture("tiny-llama")}/heldout.txt`;

// transformers 5.23 on torch, all in float64: perplexity and its standard error of the first 2048 tokens, context 256.
const GOLDEN = { perplexity: 18.673702, perplexityStderr: 1.109804, tokens: 2040 };

Deno.test("evaluate() gives tiny-llama's perplexity as float64 PyTorch does, however it is cut into pieces", async () => {
  await using model = await openTinyLlama();
  const ids = await readTokens(HELDOUT, model, { limit: 2048 });
  const events: DbfEvent[] = [];
  const result = await evaluate(model, ids, { context: 256, onEvent: (event) => events.push(event) });
  assertAlmostEquals(result.perplexity, GOLDEN.perplexity, 1e-3);
  assertAlmostEquals(result.perplexityStderr, GOLDEN.perplexityStderr, 1e-3);
  assertEquals([result.tokens, result.context, result.kl], [GOLDEN.tokens, 256, undefined]);
  assertEquals(events.length, 1);
  const pieces = await evaluate(model, ids, { context: 256, memoryBytes: 2048 * 4 * 3 * 100 });
  assertAlmostEquals(pieces.perplexity, result.perplexity, 1e-4);
});

Deno.test("evaluate() finds no distance of a model to itself", async () => {
  await using model = await openTinyLlama();
  const ids = await readTokens(HELDOUT, model, { limit: 512 });
  const result = await evaluate(model, ids, { context: 128, baseline: model });
  assertEquals(result.kl, { mean: 0, p50: 0, p99: 0, max: 0 });
  assertEquals(result.sameTop1, 1);
  assertAlmostEquals(result.baselinePerplexity!, result.perplexity, 1e-9);
});

Deno.test("evaluate() names what does not fit", async () => {
  await using model = await openTinyLlama();
  const ids = Int32Array.of(1, 2, 3);
  await assertRejects(() => evaluate(model, ids, { context: 513 }), RangeError, "from 2 to 512");
  await assertRejects(() => evaluate(model, ids.subarray(0, 1)), RangeError, "at least two");
  const other = { ...model, vocabularySize: 7 };
  await assertRejects(() => evaluate(model, ids, { baseline: other }), TypeError, "2048 and 7 tokens");
  assertEquals((await evaluate(model, ids, { context: 8 })).tokens, 2);
});

Deno.test("scoreGraph() equals its f64 twin for large and tiny differences", async () => {
  await using runtime = await openRuntime({ threads: 1 });
  await using session = await runtime.load(scoreGraph("float32", "float32"));
  const [count, vocabulary] = [6, 50];
  const p = Float32Array.from({ length: count * vocabulary }, (_, index) => 40 * Math.sin(index * 1.7) + 900);
  const q = p.map((value, index) => value + [1e-3, 1, 10][index % 3] * Math.cos(index * 2.3));
  const targets = BigInt64Array.from({ length: count }, (_, index) => BigInt((index * 7) % vocabulary));
  const outputs = await session.run({
    logits: runtime.tensor("float32", q, [2, 3, vocabulary]),
    baseline_logits: runtime.tensor("float32", p, [2, 3, vocabulary]),
    targets: runtime.tensor("int64", targets, [2, 3]),
  });
  const read = async (name: string) => await outputs[name].read() as Float32Array;
  const [nll, baselineNll, kl, same] = await Promise.all(["nll", "baseline_nll", "kl", "same"].map(read));
  for (let row = 0; row < count; row++) {
    const logP = logSoftmax(p.subarray(row * vocabulary, (row + 1) * vocabulary));
    const logQ = logSoftmax(q.subarray(row * vocabulary, (row + 1) * vocabulary));
    assertAlmostEquals(nll[row], -logQ[Number(targets[row])], 2e-4);
    assertAlmostEquals(baselineNll[row], -logP[Number(targets[row])], 2e-4);
    assertAlmostEquals(kl[row], logP.reduce((sum, l, index) => sum + Math.exp(l) * (l - logQ[index]), 0), 5e-4);
    assertEquals(same[row], logP.indexOf(Math.max(...logP)) === logQ.indexOf(Math.max(...logQ)) ? 1 : 0);
  }
});

Deno.test("perplexityOf() gives exp of the mean and its delta-method error", () => {
  const { perplexity, standardError } = perplexityOf([1, 2, 3]);
  assertAlmostEquals(perplexity, Math.E ** 2, 1e-12);
  assertLess(Math.abs(standardError - Math.E ** 2 / Math.sqrt(3)), 1e-12);
});

function logSoftmax(row: Float32Array): number[] {
  const top = Math.max(...row);
  const sum = row.reduce((total, value) => total + Math.exp(value - top), 0);
  return Array.from(row, (value) => value - top - Math.log(sum));
}
