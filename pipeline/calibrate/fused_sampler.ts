/**
 * Writes windows of text with caches that are updated in place, see `fused_sampler_graph.ts`.
 *
 * @module
 */
import { join } from "node:path";
import type { Runtime, Session, SessionOptions, Tensor } from "../../kernels/runtime/types.ts";
import { streamedWeights } from "../../plugins/target/onnx/weights.ts";
import type { ArtefactReader } from "../artefact/types.ts";
import { requireFinite, seededRandom } from "../evaluate/sample.ts";
import { writeModel } from "../graph/external_data.ts";
import { fitsFusedAttention } from "../model/fused_attention.ts";
import { buildFusedSampler, type FusedSampler } from "../model/fused_sampler_graph.ts";
import type { ModelDescription } from "../model/types.ts";
import { startWindows, type TextBatch } from "./kept_text.ts";

/**
 * Whether windows of a model can be written so: by the C API, which alone writes outputs over inputs, on the CPU or, in float16, on CUDA,
 * where heads have a size that the operator takes.
 */
export function fitsFusedSampler(
  { provider, binding }: Pick<Runtime, "provider" | "binding">,
  model: ModelDescription,
  dtype: "f32" | "f16",
): boolean {
  return binding === "c-api" && fitsFusedAttention(model) &&
    (provider === "cpu" || provider === "cuda" && dtype === "f16");
}

/** A sampler whose session is loaded. */
export interface LoadedSampler {
  readonly runtime: Runtime;
  readonly model: ModelDescription;
  readonly session: Session;
  readonly caches: FusedSampler["caches"];
  readonly length: number;
  readonly dtype: "f32" | "f16";
}

/** Writes the graph to a directory, where it takes the model's size, and loads it. */
export async function loadFusedSampler(
  runtime: Runtime,
  source: ArtefactReader,
  model: ModelDescription,
  { directory, length, dtype, temperature, session: options, signal }: {
    readonly directory: string;
    readonly length: number;
    readonly dtype: "f32" | "f16";
    readonly temperature: number;
    /** For measurements; `cudaGraph` serves eight batches, as each has two sets of tensors. */
    readonly session?: Pick<SessionOptions, "cudaGraph" | "profilePrefix" | "recordPlacement">;
    readonly signal?: AbortSignal;
  },
): Promise<LoadedSampler> {
  const weights = streamedWeights(source, model, dtype === "f16" ? "float16" : "float32");
  const { graph, caches } = buildFusedSampler(model, weights, { length, dtype, temperature });
  await writeModel(graph, directory, "sampler.onnx", { signal });
  const session = await runtime.load(join(directory, "sampler.onnx"), {
    name: "writing of text",
    ...options,
  });
  return { runtime, model, session, caches, length, dtype };
}

/** What a run takes from the one before it. */
interface State {
  readonly token: Tensor;
  readonly places: Tensor;
}

/**
 * Writes a batch of windows: a run a token, of the prompts too.
 *
 * @throws {RangeError} when the model's logits are not finite, as where its numbers exceed float16.
 */
export async function writeFusedWindows(
  { runtime, model, session, caches, length, dtype }: LoadedSampler,
  { prompts, seed }: Pick<TextBatch, "prompts" | "seed">,
  signal: AbortSignal | undefined,
): Promise<Int32Array[]> {
  const count = prompts.length, given = prompts[0].length;
  using stack = new DisposableStack();
  const tensor = (...args: Parameters<Runtime["tensor"]>) => stack.use(runtime.tensor(...args));
  const state = (): State => ({
    token: tensor("int64", new BigInt64Array(count), [count]),
    places: tensor("int32", new Int32Array(count), [count]),
  });
  const ids = new BigInt64Array(length * count).fill(-1n), uniform = new Float32Array(length * count);
  const windows = startWindows({ prompts, length });
  prompts.forEach((prompt, index) => {
    const random = seededRandom(seed + index);
    prompt.forEach((id, at) => ids[at * count + index] = BigInt(id));
    for (let at = given - 1; at < length - 1; at++) uniform[at * count + index] = random();
  });
  const feeds: Record<string, Tensor> = {
    given: tensor("int64", ids, [length, count]),
    uniform: tensor("float32", uniform, [length, count]),
  };
  const into: Record<string, Tensor> = { largest: tensor("float32", new Float32Array(count), [count]) };
  const shape = [count, model.kvHeads, length, model.headDim];
  for (const { past, present } of caches) {
    feeds[past] = into[present] = stack.use(runtime.empty(dtype === "f16" ? "float16" : "float32", shape));
  }
  let now = state(), next = state();
  for (let at = 0; at < length - 1; at++) {
    signal?.throwIfAborted();
    await session.run(
      { ...feeds, ...now },
      { into: { ...into, next_token: next.token, next_places: next.places }, inPlace: true },
    );
    [now, next] = [next, now];
    if (at + 1 < given) continue;
    requireInRange(await into.largest.read() as Float32Array, dtype);
    const tokens = await now.token.read() as BigInt64Array;
    windows.forEach((window, index) => window[at + 1] = Number(tokens[index]));
  }
  return windows;
}

function requireInRange(largest: Float32Array, dtype: "f32" | "f16"): void {
  try {
    requireFinite(largest);
  } catch (cause) {
    if (dtype === "f32") throw cause;
    throw new RangeError(
      "Cannot write text in float16: numbers of the model may exceed it; use the provider cpu, or give a text and set calibration.generated=0",
      { cause },
    );
  }
}
