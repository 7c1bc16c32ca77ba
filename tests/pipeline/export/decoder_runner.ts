/** Runs exported decoders on onnxruntime-node as a stock host would, for tests. */
import * as ort from "onnxruntime-node";
import { describeArtefact } from "../../../pipeline/artefact/describe.ts";
import { viewCheckpoint } from "../../../pipeline/artefact/checkpoint_view.ts";
import { openCheckpoint } from "../../../pipeline/checkpoint/open.ts";
import { exportModel } from "../../../pipeline/export/export_model.ts";
import { onnxTarget } from "../../../plugins/target/onnx/stage.ts";
import { fixture } from "../model/golden.ts";

/** Tensors of a decoder's cache by input name. */
export type Cache = Record<string, ort.Tensor>;

export function int64(values: readonly number[], batch: number): ort.Tensor {
  return new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [batch, values.length / batch]);
}

/** An empty cache of a session's past inputs. */
export function emptyCache(session: ort.InferenceSession, batch: number): Cache {
  const cache: Cache = {};
  for (const input of session.inputMetadata) {
    if (!input.name.startsWith("past_key_values.") || !input.isTensor) continue;
    const [, heads, , headDim] = input.shape;
    cache[input.name] = new ort.Tensor("float32", new Float32Array(0), [batch, Number(heads), 0, Number(headDim)]);
  }
  return cache;
}

/** One step: rows of ids with their whole mask; positions count unmasked tokens. */
export async function step(
  session: ort.InferenceSession,
  ids: readonly (readonly number[])[],
  masks: readonly (readonly number[])[],
  cache: Cache,
): Promise<{ logits: ort.Tensor; cache: Cache }> {
  const batch = ids.length, fresh = ids[0].length;
  const positions = masks.flatMap((mask) => {
    let next = 0;
    return mask.map((kept) => (kept === 1 ? next++ : 0)).slice(mask.length - fresh);
  });
  const outputs = await session.run({
    input_ids: int64(ids.flat(), batch),
    attention_mask: int64(masks.flat(), batch),
    position_ids: int64(positions, batch),
    ...cache,
  });
  const next: Cache = {};
  for (const [name, tensor] of Object.entries(outputs)) {
    if (name.startsWith("present.")) next[name.replace("present.", "past_key_values.")] = tensor;
  }
  return { logits: outputs.logits, cache: next };
}

/** Index of the largest logit at the last position of a row of the batch. */
export function bestLast(logits: ort.Tensor, row: number): number {
  const [, count, vocabulary] = logits.dims;
  const start = (row * count + count - 1) * vocabulary;
  const values = (logits.data as Float32Array).subarray(start, start + vocabulary);
  return values.reduce((best, value, index) => (value > values[best] ? index : best), 0);
}

/** Exports a fixture into a temporary directory, hands it over, removes it. */
export async function withExport<T>(
  name: string,
  dtype: "f32" | "f16",
  body: (directory: string) => Promise<T>,
): Promise<T> {
  const parent = await Deno.makeTempDir();
  try {
    using source = viewCheckpoint(await openCheckpoint(fixture(name)));
    const directory = `${parent}/onnx`;
    await exportModel({ source, model: await describeArtefact(source), directory, target: onnxTarget, dtype });
    return await body(directory);
  } finally {
    await Deno.remove(parent, { recursive: true });
  }
}

/** Loads `model.onnx` of a directory. */
export function loadDecoder(directory: string): Promise<ort.InferenceSession> {
  return ort.InferenceSession.create(`${directory}/model.onnx`, { logSeverityLevel: 3 });
}
