/**
 * The model's own text in a run: what decides it, and where it is kept, so that a resumed run and other runs on the same
 * checkpoint and text read it instead of generating it again.
 *
 * @module
 */
import { join } from "node:path";
import type { Runtime } from "../kernels/runtime/types.ts";
import { contentHashes } from "./artefact/content_hash.ts";
import { sha256 } from "./artefact/durable.ts";
import { canonicalJson, checkpointIdentity } from "./artefact/fingerprint.ts";
import { keptText } from "./calibrate/kept_text.ts";
import { OWN_TEXT_DTYPE, selfText, type SelfTextOptions, windowsTogether } from "./calibrate/self_text.ts";
import { hashWindows } from "./calibrate/windows.ts";
import { openWindowSampler, type WindowSampler } from "./calibrate/window_sampler.ts";
import type { CheckpointReader } from "./checkpoint/types.ts";
import type { CalibrationRequest } from "./compress_calibration.ts";
import { machineFields } from "./compress_fingerprint.ts";
import { describeCheckpoint } from "./model/check.ts";
import type { Recipe } from "./recipe/schema.ts";
import type { DbfEvent } from "./stream/events.ts";

/** Raise it when the same seed gives other text for a reason that no other field shows. */
const GENERATOR_VERSION = 2;

/** Folder of kept text in a cache directory or in a run's working state. */
const FOLDER = "own-text";

/** The model's own text before it is made. */
export interface OwnText {
  /** Hash of everything that decides the windows: it stands for them in the run's fingerprint. */
  readonly key: string;
  /** Hash of what decides a batch of windows, beside its prompts and its seed. */
  readonly source: string;
  readonly temperature: number;
  readonly options: Omit<SelfTextOptions, "keep" | "signal" | "progress">;
}

/**
 * Says what text a run will make; `undefined` where it makes none. All tensors are read once, as the text is theirs. Of the machine,
 * threads and instruction set count on the CPU alone, so that text can be carried from one GPU to another of its kind.
 */
export async function describeOwnText(
  { text, own: count }: CalibrationRequest,
  run: {
    readonly recipe: Recipe;
    readonly checkpoint: CheckpointReader;
    readonly runtime: Runtime;
    readonly signal: AbortSignal;
  },
): Promise<OwnText | undefined> {
  if (count === 0) return undefined;
  const { recipe, checkpoint, runtime, signal } = run;
  const { length, temperature = 1 } = recipe.calibration!, { seed } = recipe;
  const model = describeCheckpoint(checkpoint);
  const batch = windowsTogether(runtime, model, length, count);
  const contents = await contentHashes(checkpoint, signal);
  const { provider, onnxruntime, ...cpu } = machineFields(recipe, runtime);
  const source = sha256(canonicalJson({
    version: GENERATOR_VERSION,
    checkpoint: checkpointIdentity(checkpoint),
    contents,
    dtype: OWN_TEXT_DTYPE[runtime.provider],
    provider,
    onnxruntime,
    ...(temperature === 1 ? {} : { temperature }),
    ...(provider === "cpu" ? cpu : {}),
  }));
  return {
    key: sha256(canonicalJson({ source, text: hashWindows(text), seed, length, count, batch })),
    source,
    temperature,
    options: { vocabularySize: model.vocabularySize, count, length, text, seed, batch },
  };
}

/**
 * Makes the windows, or reads those that were kept. The whole model is in use, its graphs in a temporary directory, unless everything is there.
 *
 * @param directory Where batches of windows are kept as soon as they are made.
 */
export async function makeOwnText(
  { source, temperature, options }: OwnText,
  run: {
    readonly directory: string;
    readonly model: string;
    readonly runtime: Runtime;
    readonly signal: AbortSignal;
    emit(event: DbfEvent): void;
  },
): Promise<Int32Array[]> {
  const { directory, runtime, signal, emit } = run;
  await using stack = new AsyncDisposableStack();
  let opened: Promise<WindowSampler> | undefined;
  const open = () => {
    if (opened === undefined) emit({ type: "notice", message: `"${run.model}" writes text of its own` });
    const { length } = options;
    return opened ??= openWindowSampler(run.model, runtime, {
      length,
      dtype: OWN_TEXT_DTYPE[runtime.provider],
      temperature,
      signal,
    })
      .then((sampler) => stack.use(sampler));
  };
  return await selfText(open, {
    ...options,
    keep: keptText({
      directory: join(directory, FOLDER),
      source,
      vocabularySize: options.vocabularySize,
      notice: (message) => emit({ type: "notice", message }),
    }),
    signal,
    progress: (done, total) => emit({ type: "stage-progress", stage: "self-text", subject: run.model, done, total }),
  });
}
