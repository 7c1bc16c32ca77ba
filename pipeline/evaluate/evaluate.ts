/**
 * Perplexity on a text, and the distance to a baseline on the same tokens.
 *
 * @module
 */
import type { Session, Tensor } from "../../kernels/runtime/types.ts";
import type { DbfEvent } from "../stream/events.ts";
import { consecutiveWindows } from "../calibrate/windows.ts";
import type { LanguageModel } from "./language_model.ts";
import { type LogitsDType, scoreGraph } from "./score_graph.ts";
import { collectScores, type EvaluationResult, type Scores } from "./scores.ts";

/** Window length where none is given and the model allows more: what published tables use. */
const DEFAULT_CONTEXT = 2048;
/** Bytes for the logits in flight and what the scoring graph makes of them. */
const DEFAULT_MEMORY_BYTES = 512 * 2 ** 20;
/** More sequences at once bring nothing on any provider. */
const MAX_BATCH = 8;

export type { EvaluationResult } from "./scores.ts";

/** How a model is evaluated. */
export interface EvaluateOptions {
  /** Tokens a window. Default: the model's context, at most 2048. */
  readonly context?: number;
  /** Opened on the same runtime; its tokens are the model's. */
  readonly baseline?: LanguageModel;
  /** Bytes for logits in flight. Default 512 MiB. */
  readonly memoryBytes?: number;
  readonly signal?: AbortSignal;
  /** Told the progress after every batch of windows. */
  readonly onEvent?: (event: DbfEvent) => void;
}

/**
 * Evaluates a model on token ids: consecutive windows that do not overlap, the first token of each unscored, a rest
 * shorter than a window left out (unless it is all there is).
 *
 * @param model An opened model.
 * @param ids The text, `(n,)`, at least two ids.
 * @throws {RangeError} when the context does not fit the model or the text is too short.
 * @throws {TypeError} when the baseline has another vocabulary.
 */
export async function evaluate(
  model: LanguageModel,
  ids: Int32Array,
  options: EvaluateOptions = {},
): Promise<EvaluationResult> {
  const { baseline, signal } = options;
  if (baseline !== undefined && baseline.vocabularySize !== model.vocabularySize) {
    throw new TypeError(
      `Cannot compare "${model.path}" to "${baseline.path}": their vocabularies have ${model.vocabularySize} and ` +
        `${baseline.vocabularySize} tokens; the baseline must be the model that was compressed`,
    );
  }
  const limit = Math.min(model.contextLength, baseline?.contextLength ?? Infinity);
  const wanted = options.context ?? Math.min(limit, DEFAULT_CONTEXT);
  if (!Number.isInteger(wanted) || wanted < 2 || wanted > limit) {
    throw new RangeError(
      `Cannot evaluate with windows of ${wanted} tokens: it must be a whole number from 2 to ${limit}`,
    );
  }
  if (ids.length < 2) throw new RangeError(`Cannot evaluate on ${ids.length} tokens: at least two are needed`);
  const windows = consecutiveWindows(ids, wanted);
  const context = windows[0].length;

  const plan = planBatches(context, model.vocabularySize, baseline !== undefined, options.memoryBytes);
  const graph = scoreGraph(logitsDType(model), baseline && logitsDType(baseline));
  await using scorer = await model.decoder.runtime.load(graph, { name: "scores" });
  const scores = collectScores(windows.length * (context - 1), baseline !== undefined);
  for (let start = 0; start < windows.length; start += plan.batch) {
    const batch = windows.slice(start, start + plan.batch);
    await scoreBatch(model, baseline, scorer, batch, plan.positions, scores, signal);
    options.onEvent?.({
      type: "stage-progress",
      stage: "evaluate",
      subject: model.path,
      done: start + batch.length,
      total: windows.length,
      detail: { perplexity: scores.perplexity() },
    });
  }
  return scores.result(context);
}

/** How many windows go together, and how many positions of each at a time. */
function planBatches(context: number, vocabulary: number, pair: boolean, memoryBytes = DEFAULT_MEMORY_BYTES) {
  // Logits, their exponentials and one difference, for each model; f32.
  const bytesPerPosition = vocabulary * 4 * (pair ? 7 : 3);
  const positions = Math.max(1, Math.floor(memoryBytes / bytesPerPosition));
  const batch = Math.min(MAX_BATCH, Math.max(1, Math.floor(positions / context)));
  const pieces = Math.ceil(context / Math.min(context, positions));
  return { batch, positions: Math.ceil(context / pieces) };
}

async function scoreBatch(
  model: LanguageModel,
  baseline: LanguageModel | undefined,
  scorer: Session,
  windows: readonly Int32Array[],
  positions: number,
  scores: Scores,
  signal: AbortSignal | undefined,
): Promise<void> {
  const context = windows[0].length;
  using state = model.decoder.start(windows.length);
  using baselineState = baseline?.decoder.start(windows.length);
  for (let start = 0; start < context; start += positions) {
    signal?.throwIfAborted();
    const end = Math.min(start + positions, context);
    const width = end - start;
    const ids = new Int32Array(windows.length * width);
    const targets = new BigInt64Array(ids.length); // the last position of a window has none: 0, not counted
    windows.forEach((window, row) => {
      ids.set(window.subarray(start, end), row * width);
      for (let place = start; place < Math.min(end, context - 1); place++) {
        targets[row * width + place - start] = BigInt(window[place + 1]);
      }
    });
    using logits = await state.append(ids, undefined, signal);
    using baselineLogits = await baselineState?.append(ids, undefined, signal);
    using targetTensor = model.decoder.runtime.tensor("int64", targets, [windows.length, width]);
    const feeds: Record<string, Tensor> = { logits, targets: targetTensor };
    if (baselineLogits !== undefined) feeds.baseline_logits = baselineLogits;
    const outputs = await scorer.run(feeds, { signal });
    const values: Record<string, Float32Array> = {};
    for (const [name, tensor] of Object.entries(outputs)) {
      values[name] = await tensor.read() as Float32Array;
      tensor[Symbol.dispose]();
    }
    windows.forEach((_, row) => {
      for (let place = start; place < Math.min(end, context - 1); place++) {
        scores.add(values, row * width + place - start);
      }
    });
  }
}

/** Type of a model's logits, one that scoring takes. */
function logitsDType(model: LanguageModel): LogitsDType {
  const { dtype } = model.decoder.session.outputs.find(({ name }) => name === "logits")!;
  if (dtype !== "float32" && dtype !== "float16") {
    throw new TypeError(`Cannot score logits of type ${dtype} from "${model.graph}"`);
  }
  return dtype;
}
