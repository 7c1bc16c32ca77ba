/**
 * One compression of a bench about quality: compressed, exported and evaluated as the command line does it.
 *
 * @module
 */
import type { Runtime } from "../kernels/runtime/types.ts";
import { compress } from "../pipeline/compress.ts";
import type { CompressOptions } from "../pipeline/start_run.ts";
import { evaluate } from "../pipeline/evaluate/evaluate.ts";
import { openModel } from "../pipeline/evaluate/open_model.ts";
import type { RecipeInput } from "../pipeline/recipe/schema.ts";
import type { DbfEvent } from "../pipeline/stream/events.ts";

/** Quality on one text. */
export interface TextScore {
  readonly perplexity: number;
  readonly perplexityStderr: number;
  /** KL(full precision ‖ compressed), nats a token. */
  readonly kl?: number;
  /** Share of tokens where both prefer the same next one. */
  readonly sameTop1?: number;
}

/** What one run gave. */
export interface QualityRun {
  /** Sign bits per weight. */
  readonly bits: number;
  /** With 16-bit scales and padding. */
  readonly effectiveBits: number;
  /** Bytes of the exported model's graph and data. */
  readonly modelBytes: number;
  /** Of the compression alone. */
  readonly seconds: number;
  /** Of each model-wide or block-wise stage, by its name. */
  readonly stageSeconds: Readonly<Record<string, number>>;
  readonly peakBytes: number;
  /** Training loss of the distillation at every tenth of its steps, nats a token. */
  readonly curve?: readonly number[];
  /** Perplexity that the distillation reported on the first windows of the calibration text. */
  readonly tunedPerplexity?: number;
  /** Middle dimension by weight name. */
  readonly ranks: Readonly<Record<string, number>>;
  /** By the name of the text. */
  readonly texts: Readonly<Record<string, TextScore>>;
}

/** How a run is evaluated. */
export interface QualityRunOptions {
  /** Checkpoint to compress and to compare with. */
  readonly model: string;
  /** Directory of the run; it is kept, so that an interrupted run resumes. */
  readonly out: string;
  /** Token ids by name. */
  readonly texts: Readonly<Record<string, Int32Array>>;
  /** Tokens a window. */
  readonly context: number;
  readonly plugins?: CompressOptions["plugins"];
  /** Shown with the progress of the distillation. */
  readonly label: string;
}

/** Compresses with a recipe and evaluates what was exported. */
export async function runQuality(
  runtime: Runtime,
  input: Omit<RecipeInput, "model" | "out">,
  { model: source, out, texts, context, plugins, label }: QualityRunOptions,
): Promise<QualityRun> {
  const losses: number[] = [];
  const stageSeconds: Record<string, number> = {};
  let peakBytes = 0;
  let tunedPerplexity: number | undefined;
  const onEvent = (event: DbfEvent) => {
    peakBytes = Math.max(peakBytes, Deno.memoryUsage().rss);
    if (event.type === "stage-end" && event.stage === "logits") tunedPerplexity = event.detail?.perplexity;
    if (event.type === "stage-end" && /^(model|block \d+)$/.test(event.subject)) {
      stageSeconds[event.stage] = (stageSeconds[event.stage] ?? 0) + event.elapsedMs / 1000;
    }
    if (event.type !== "stage-progress" || event.stage !== "logits") return;
    losses.push(event.detail?.loss ?? Number.NaN);
    if (event.done % 100 === 0) console.error(`${label}: ${event.done}/${event.total} loss ${event.detail?.loss}`);
  };
  const started = performance.now();
  const report = await compress({ ...input, model: source, out }, { runtime, onEvent, plugins });
  const seconds = (performance.now() - started) / 1000;
  await using model = await openModel(out, runtime);
  await using baseline = await openModel(source, runtime);
  const scores: Record<string, TextScore> = {};
  for (const [name, ids] of Object.entries(texts)) {
    const { perplexity, perplexityStderr, kl, sameTop1 } = await evaluate(model, ids, { context, baseline });
    scores[name] = { perplexity, perplexityStderr, kl: kl?.mean, sameTop1 };
  }
  const curve = Array.from({ length: 11 }, (_, tenth) => losses[Math.round((losses.length - 1) * tenth / 10)]);
  return {
    bits: report.bitsPerWeight,
    effectiveBits: report.effectiveBitsPerWeight,
    modelBytes: await graphBytes(report.exported),
    seconds,
    stageSeconds,
    peakBytes,
    ...(losses.length > 0 ? { curve } : {}),
    ...(tunedPerplexity === undefined ? {} : { tunedPerplexity }),
    ranks: Object.fromEntries(report.layers.map(({ name, rank }) => [name, rank])),
    texts: scores,
  };
}

/** Bytes of `model.onnx` and the data beside it. */
export async function graphBytes(directory: string): Promise<number> {
  let bytes = 0;
  for await (const { name, isFile } of Deno.readDir(directory)) {
    if (isFile && name.startsWith("model.onnx")) bytes += (await Deno.stat(`${directory}/${name}`)).size;
  }
  return bytes;
}
