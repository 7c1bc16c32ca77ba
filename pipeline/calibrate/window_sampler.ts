/**
 * Writes windows of text with a full-precision model, many at once.
 *
 * @module
 */
import { join } from "node:path";
import type { DType, Runtime, Session, Tensor } from "../../kernels/runtime/types.ts";
import { streamedWeights } from "../../plugins/target/onnx/weights.ts";
import { viewCheckpoint } from "../artefact/checkpoint_view.ts";
import { openCheckpoint } from "../checkpoint/open.ts";
import { requireFinite, seededRandom } from "../evaluate/sample.ts";
import { writeModel } from "../graph/external_data.ts";
import { encodeModel } from "../graph/encode.ts";
import { createGraph } from "../graph/graph.ts";
import { fill } from "../graph/ops.ts";
import type { Graph } from "../graph/types.ts";
import { describeCheckpoint } from "../model/check.ts";
import { buildMerge, buildSampler, type SamplerSizes } from "../model/sampler_graph.ts";
import type { ModelDescription } from "../model/types.ts";
import { startWindows, type TextBatch } from "./kept_text.ts";
import { disposeFeeds, type Feeds } from "./engine.ts";
import { fitsFusedSampler, loadFusedSampler, writeFusedWindows } from "./fused_sampler.ts";

/** A model that continues windows. */
export interface WindowSampler extends AsyncDisposable {
  /**
   * Windows that begin with prompts of one length and go on with drawn tokens.
   *
   * @throws {RangeError} when the model's logits are not finite.
   */
  write(batch: TextBatch, signal?: AbortSignal): Promise<Int32Array[]>;
}

/** How a sampler is opened. */
export interface WindowSamplerOptions {
  /** Tokens of the windows. */
  readonly length: number;
  /** Type of weights, products and caches. */
  readonly dtype: "f32" | "f16";
  /** Logits are divided by it before a token is drawn; above 0. Default 1. */
  readonly temperature?: number;
  /**
   * Tokens that are kept apart from the older ones, see `sampler_graph.ts`. Default: {@linkcode fitsFusedSampler} decides whether
   * there are any, and they are 64.
   */
  readonly recent?: number;
  readonly signal?: AbortSignal;
}

/** Enough that the older tokens are copied rarely, and few beside them. */
const RECENT = 64;

/** Places for tokens of windows: all but the last one, which is never fed, and those that stay among the recent ones. */
export function samplerSizes(length: number, recent = RECENT): SamplerSizes {
  return { recent, capacity: recent * Math.max(1, Math.floor((length - 1) / recent)) };
}

/** Rows of the vocabulary's length in float32 that a window has while its token is drawn. */
const ROWS_TO_DRAW = 5;

/** Bytes of one window: its cache, with recent tokens before and after a step, and its logits. */
export function samplerBytes(
  { blocks, kvHeads, headDim, vocabularySize }: ModelDescription,
  length: number,
  dtype: "f32" | "f16",
): number {
  const { capacity, recent } = samplerSizes(length);
  const cache = 2 * (dtype === "f16" ? 2 : 4) * blocks.length * kvHeads * headDim * (capacity + 2 * recent);
  return cache + 4 * ROWS_TO_DRAW * vocabularySize;
}

/**
 * Opens a checkpoint for writing windows. Its graphs are written to a temporary directory, which takes the model's size, or twice that,
 * and is removed with the sampler.
 *
 * @throws {RangeError} when the windows are longer than the model's context.
 */
export async function openWindowSampler(
  path: string,
  runtime: Runtime,
  { length, dtype, temperature = 1, recent, signal }: WindowSamplerOptions,
): Promise<WindowSampler> {
  await using stack = new AsyncDisposableStack();
  const checkpoint = await openCheckpoint(path, { signal });
  const source = stack.use(viewCheckpoint(checkpoint));
  const model = describeCheckpoint(checkpoint);
  if (length > model.maxPositions) {
    throw new RangeError(
      `Cannot write windows of ${length} tokens: the context of "${path}" has ${model.maxPositions}; set calibration.length`,
    );
  }
  const directory = await Deno.makeTempDir({ prefix: "dbf-own-text-" });
  stack.defer(() => Deno.remove(directory, { recursive: true }));
  if (recent === undefined && length > 1 && fitsFusedSampler(runtime, model, dtype)) {
    const loaded = await loadFusedSampler(runtime, source, model, { directory, length, dtype, temperature, signal });
    stack.use(loaded.session);
    return samplerOf(stack.move(), (batch, stop) => writeFusedWindows(loaded, batch, stop));
  }
  const sizes = samplerSizes(length, recent), type = dtype === "f16" ? "float16" : "float32";
  // Sessions that are loaded later end before the directory.
  const opened = stack.use(new AsyncDisposableStack());
  const load = async (fresh: number) => {
    const weights = streamedWeights(source, model, type);
    const name = `sampler_${fresh}.onnx`;
    await writeModel(buildSampler(model, weights, { ...sizes, fresh, dtype, temperature }), directory, name, {
      signal,
    });
    return opened.use(await runtime.load(join(directory, name), { name: `writing of text, ${fresh} tokens at once` }));
  };
  const step = await load(1);
  let chunk: Promise<Session> | undefined;
  const merge = stack.use(
    await runtime.load(encodeModel(buildMerge(model, sizes, dtype)), { name: "merge of recent tokens" }),
  );
  const zeros = stack.use(await runtime.load(encodeModel(zerosGraph(type)), { name: "empty caches" }));
  return samplerOf(stack.move(), (batch, stop) =>
    writeWindows(
      { runtime, model, sizes, step, chunk: () => chunk ??= load(sizes.recent), merge, zeros },
      batch,
      stop,
    ));
}

/** A sampler that ends what it stands on. */
const samplerOf = (held: AsyncDisposableStack, write: WindowSampler["write"]): WindowSampler => ({
  write,
  [Symbol.asyncDispose]: () => held.disposeAsync(),
});

interface Writing {
  readonly runtime: Runtime;
  readonly model: ModelDescription;
  readonly sizes: SamplerSizes;
  readonly step: Session;
  readonly chunk: () => Promise<Session>;
  readonly merge: Session;
  readonly zeros: Session;
}

/** Keys and values of all blocks by name without prefix, `N.key` and `N.value`. */
type Caches = Record<string, Tensor>;

async function writeWindows(
  writing: Writing,
  { prompts, length, seed }: TextBatch,
  signal: AbortSignal | undefined,
): Promise<Int32Array[]> {
  const { runtime, model, sizes: { capacity, recent }, step } = writing;
  const count = prompts.length, given = prompts[0].length;
  const windows = startWindows({ prompts, length });
  const random = prompts.map((_, index) => seededRandom(seed + index));
  const empty = async (places: number) => {
    const dims = [count, model.kvHeads, places, model.headDim];
    using shape = runtime.tensor("int64", BigInt64Array.from(dims, BigInt), [4]);
    return (await writing.zeros.run({ dims: shape })).zeros;
  };
  const names = model.blocks.flatMap((_, index) => [`${index}.key`, `${index}.value`]);
  const old: Caches = {};
  let now: Caches = {};
  let spare: Tensor | undefined;
  try {
    for (const name of names) [old[name], now[name]] = [await empty(capacity), await empty(recent)];
    spare = await empty(capacity);
    for (let at = 0, merged = 0; at < length - 1;) {
      signal?.throwIfAborted();
      if (at - merged === recent) {
        for (const name of names) {
          using place = runtime.tensor("int64", BigInt64Array.of(BigInt(merged)), [1]);
          await writing.merge.run({ old: old[name], recent: now[name], merged: place }, { into: { next: spare } });
          [old[name], spare] = [spare, old[name]];
        }
        merged = at;
      }
      const whole = at === merged && at + recent <= given;
      const fresh = whole ? recent : 1;
      // Within the prompt nothing is drawn.
      const draws = at + fresh >= given;
      const scalar = (value: number) => runtime.tensor("int64", BigInt64Array.of(BigInt(value)), []);
      const own: Feeds = {
        input_ids: runtime.tensor("int64", idsOf(windows, at, fresh), [count, fresh]),
        merged: scalar(merged),
        held: scalar(at - merged),
        uniform: runtime.tensor("float32", Float32Array.from(random, (each) => draws ? each() : 0), [count, 1]),
      };
      const feeds = { ...own, ...prefixed("old", old), ...(whole ? {} : prefixed("recent", now)) };
      const session = whole ? await writing.chunk() : step;
      const { token, largest, ...next } = await session.run(feeds, { signal });
      disposeFeeds(own);
      disposeFeeds(now);
      now = Object.fromEntries(names.map((name) => [name, next[`next.${name}`]]));
      at += fresh;
      if (draws) {
        requireFinite(await largest.read() as Float32Array);
        const tokens = await token.read() as BigInt64Array;
        windows.forEach((window, index) => window[at] = Number(tokens[index]));
      }
      disposeFeeds({ token, largest });
    }
    return windows;
  } finally {
    disposeFeeds({ ...old, spare });
    disposeFeeds(now);
  }
}

/** Token ids of all windows at places `[at, at + count)`. */
function idsOf(windows: readonly Int32Array[], at: number, count: number): BigInt64Array<ArrayBuffer> {
  const ids = new BigInt64Array(windows.length * count);
  windows.forEach((window, index) => {
    for (let place = 0; place < count; place++) ids[index * count + place] = BigInt(window[at + place]);
  });
  return ids;
}

const prefixed = (prefix: string, caches: Caches): Feeds =>
  Object.fromEntries(Object.entries(caches).map(([name, tensor]) => [`${prefix}.${name}`, tensor]));

/** Zeros of a shape `dims`: places that are masked must hold a number too. */
function zerosGraph(dtype: DType): Graph {
  const g = createGraph("zeros");
  g.output("zeros", fill(g, g.input("dims", "int64", [4]), 0, dtype));
  return g;
}
