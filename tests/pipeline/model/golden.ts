/** Golden logits of the fixtures and a decoder with its weights in memory, for tests. */
import { assertEquals } from "@std/assert";
import { openCheckpoint } from "../../../pipeline/checkpoint/open.ts";
import type { CheckpointReader } from "../../../pipeline/checkpoint/types.ts";
import { matMulTransposed } from "../../../pipeline/graph/compose.ts";
import { add, gather } from "../../../pipeline/graph/ops.ts";
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import type { DecoderWeights } from "../../../pipeline/model/decoder_graph.ts";
import { describeModel } from "../../../pipeline/model/describe.ts";
import type { ModelDescription } from "../../../pipeline/model/types.ts";

export const ARCHITECTURES = [
  "llama",
  "llama3_rope",
  "mistral",
  "qwen2",
  "qwen3",
  "gemma2",
  "gemma3_text",
  "granite",
  "olmo2",
  "phi3",
  "smollm3",
];

/** Directory of a fixture checkpoint. */
export function fixture(name: string): string {
  const directory = new URL("../../fixtures/", import.meta.url).pathname;
  return name === "tiny-llama" ? `${directory}tiny-llama` : `${directory}architectures/${name}`;
}

/** golden.json of a fixture. */
export interface Golden {
  readonly input_ids: number[];
  readonly logits_first: number[];
  readonly logits_mid: number[];
  readonly logits_last: number[];
  readonly nll_mean: number;
}

export function readGolden(name: string): Golden {
  return JSON.parse(Deno.readTextFileSync(`${fixture(name)}/golden.json`));
}

/** Mean negative log-likelihood of each next token, in f64. */
export function meanNll(logits: Float32Array, ids: readonly number[], vocabulary: number): number {
  let total = 0;
  for (let at = 0; at + 1 < ids.length; at++) {
    const row = logits.subarray(at * vocabulary, (at + 1) * vocabulary);
    const top = row.reduce((a, b) => Math.max(a, b), -Infinity);
    const sum = row.reduce((a, b) => a + Math.exp(b - top), 0);
    total += top + Math.log(sum) - row[ids[at + 1]];
  }
  return total / (ids.length - 1);
}

/** Largest difference over the largest magnitude of `expected`. */
export function relativeDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  assertEquals(actual.length, expected.length);
  let difference = 0, scale = 0;
  for (let index = 0; index < expected.length; index++) {
    const error = Math.abs(actual[index] - expected[index]);
    difference = Number.isNaN(error) ? Infinity : Math.max(difference, error);
    scale = Math.max(scale, Math.abs(expected[index]));
  }
  return difference / scale;
}

/** Compares logits `[1, tokens, vocabulary]` with a golden file; returns the worst relative difference and the NLL's. */
export function compareGolden(golden: Golden, logits: Float32Array): { logits: number; nll: number } {
  const count = golden.input_ids.length, vocabulary = logits.length / count;
  const row = (at: number) => logits.subarray(at * vocabulary, (at + 1) * vocabulary);
  return {
    logits: Math.max(
      relativeDifference(row(0), golden.logits_first),
      relativeDifference(row(count >> 1), golden.logits_mid),
      relativeDifference(row(count - 1), golden.logits_last),
    ),
    nll: Math.abs(meanNll(logits, golden.input_ids, vocabulary) - golden.nll_mean),
  };
}

/** Description of a fixture and a way to put its weights into graphs as constants. */
export async function memoryWeights(
  name: string,
): Promise<{ model: ModelDescription; weights: DecoderWeights; checkpoint: CheckpointReader }> {
  const checkpoint = await openCheckpoint(fixture(name));
  const model = describeModel(checkpoint.config, checkpoint.tensors);
  const read = new Map<string, Float32Array>();
  for (const [tensor, handle] of checkpoint.tensors) read.set(tensor, await handle.read());
  const stored = new Map<string, Value>();
  const weight = (g: Graph, tensor: string) => {
    let value = stored.get(tensor);
    if (value === undefined) {
      value = g.initializer(tensor, "float32", checkpoint.tensors.get(tensor)!.shape, read.get(tensor)!);
      stored.set(tensor, value);
    }
    return value;
  };
  const weights: DecoderWeights = {
    linear(g, linear, x) {
      const y = matMulTransposed(g, x, weight(g, linear.weight));
      return linear.bias === undefined ? y : add(g, y, weight(g, linear.bias));
    },
    vector: (g, tensor) => weight(g, tensor),
    embed: (g, ids) => gather(g, weight(g, model.embedding), ids),
    head: (g, x) => matMulTransposed(g, x, weight(g, model.head)),
  };
  return { model, weights, checkpoint };
}
