/**
 * `deno task bench baselines`: double-binary layers beside what else a user could take, on one model with one calibration text
 * and one evaluation, through the path that users take.
 *
 *   deno task bench baselines                          # everything that is not kept yet, then the table
 *   deno task bench baselines --rows dbf-1,sign        # a piece
 *   deno task bench baselines --kept --turns 5         # the table of what is kept, with tokens per second
 *
 * Rows and their exported models are kept in `--cache`, and an interrupted row resumes. Held-out text is only reported.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { dirname, join } from "node:path";
import { openRuntime } from "../kernels/runtime/open.ts";
import type { Runtime } from "../kernels/runtime/types.ts";
import { sha256, writeFileDurably } from "../pipeline/artefact/durable.ts";
import { viewCheckpoint } from "../pipeline/artefact/checkpoint_view.ts";
import { describeArtefact } from "../pipeline/artefact/describe.ts";
import { encodeText, readText } from "../pipeline/calibrate/text.ts";
import { openCheckpoint } from "../pipeline/checkpoint/open.ts";
import { evaluate } from "../pipeline/evaluate/evaluate.ts";
import { openModel } from "../pipeline/evaluate/open_model.ts";
import { loadTokenizer } from "../pipeline/evaluate/tokenizer.ts";
import { exportModel } from "../pipeline/export/export_model.ts";
import type { RecipeInput } from "../pipeline/recipe/schema.ts";
import { builtinStages } from "../plugins/mod.ts";
import { onnxTarget } from "../plugins/target/onnx/stage.ts";
import { type Contender, CONTENDERS } from "./baselines_rows.ts";
import { type Measured, renderBaselines } from "./baselines_table.ts";
import { medianSpeeds } from "./generate.ts";
import { keptResult } from "./kept_results.ts";
import { graphBytes, type QualityRun, runQuality } from "./quality_run.ts";

const MODEL = "tests/fixtures/tiny-llama";
const CONTEXT = 256;
/** Scored tokens of the held-out text, as all figures for this model. */
const EVALUATION_TOKENS = 50_000;
/** Tokens generated for a speed. */
const SPEED_TOKENS = 64;

/** What rows are made with. */
interface Setting {
  readonly runtime: Runtime;
  readonly model: string;
  readonly context: number;
  readonly threads: number | undefined;
  readonly texts: { readonly heldOut: Int32Array };
  readonly cache: string;
  readonly calibration: NonNullable<RecipeInput["calibration"]>;
  /** Hashes of what is read. */
  readonly data: readonly unknown[];
}

/** Name and version of the stages that a recipe names, which decide its result with their options. */
function versionsOf(stages: NonNullable<RecipeInput["stages"]>): string[] {
  const named = new Set(Object.values(stages).flat().map((choice) => typeof choice === "string" ? choice : choice.use));
  return builtinStages.filter(({ name }) => named.has(name)).map(({ name, version }) => `${name} ${version}`);
}

function keyOf(contender: Contender, { runtime, calibration, data }: Setting): unknown {
  const { recipe } = contender;
  if (recipe === undefined) return { data, onnxruntime: runtime.version };
  const own = { factorization: "dbf-admm", ...recipe.stages };
  return { recipe, calibration, data, versions: versionsOf(own), onnxruntime: runtime.version };
}

const modelPlace = (contender: Contender, setting: Setting) =>
  join(setting.cache, "models", sha256(JSON.stringify(keyOf(contender, setting))).slice(0, 24));

/** Puts an exported model where speeds are measured from. */
async function keepModel(exported: string, place: string): Promise<void> {
  await Deno.mkdir(dirname(place), { recursive: true });
  await Deno.remove(place, { recursive: true }).catch(() => {});
  await Deno.rename(exported, place);
}

/** Full precision, exported and evaluated. */
async function runFull({ runtime, model: source, context, texts }: Setting, out: string): Promise<QualityRun> {
  using view = viewCheckpoint(await openCheckpoint(source));
  const description = await describeArtefact(view);
  await exportModel({ source: view, model: description, directory: join(out, "onnx"), target: onnxTarget });
  await using model = await openModel(join(out, "onnx"), runtime);
  const { perplexity, perplexityStderr } = await evaluate(model, texts.heldOut, { context });
  return {
    bits: 32,
    effectiveBits: 32,
    modelBytes: await graphBytes(join(out, "onnx")),
    seconds: 0,
    stageSeconds: {},
    peakBytes: 0,
    ranks: {},
    texts: { heldOut: { perplexity, perplexityStderr, kl: 0, sameTop1: 1 } },
  };
}

/** Makes a row, or returns it as kept. */
function runContender(contender: Contender, setting: Setting): Promise<QualityRun> {
  const { runtime, model, context, texts, calibration, threads, cache } = setting;
  return keptResult(cache, keyOf(contender, setting), async (out) => {
    await Deno.mkdir(out, { recursive: true });
    const input = {
      ...contender.recipe,
      effort: "balanced",
      provider: runtime.provider,
      threads,
      calibration,
    } as const;
    const run = contender.recipe === undefined
      ? await runFull(setting, out)
      : await runQuality(runtime, input, { model, out, context, texts, label: contender.id });
    await keepModel(join(out, "onnx"), modelPlace(contender, setting));
    return run;
  });
}

/** Whether a row is kept. */
async function isKept(contender: Contender, setting: Setting): Promise<boolean> {
  return await Deno.stat(modelPlace(contender, setting)).then(() => true, () => false);
}

/** Runs the bench. */
export async function main(args: readonly string[]): Promise<void> {
  const flags = parseArgs([...args], {
    string: ["rows", "model", "calibration", "heldout", "context", "tokens", "threads", "cache", "turns", "out"],
    boolean: ["json", "kept"],
  });
  const { model = MODEL, cache = ".cache/bench-baselines" } = flags;
  const context = Number(flags.context ?? CONTEXT), limit = Number(flags.tokens ?? EVALUATION_TOKENS);
  const threads = flags.threads === undefined ? undefined : Number(flags.threads);
  const source = flags.calibration ?? `${MODEL}/calibration.txt`;
  const heldOutText = await readText(flags.heldout ?? `${MODEL}/heldout.txt`);
  const heldOut = encodeText(heldOutText, await loadTokenizer(model), limit);
  await using runtime = await openRuntime({ threads });
  const setting: Setting = {
    runtime,
    model,
    context,
    threads,
    texts: { heldOut },
    cache,
    calibration: { source, length: context, sequences: 4096 },
    data: [model, sha256(await readText(source)), sha256(heldOutText), limit, context],
  };
  const wanted = flags.rows?.split(",");
  const unknown = wanted?.find((id) => CONTENDERS.every((contender) => contender.id !== id));
  if (unknown !== undefined) {
    throw new TypeError(`Cannot run row "${unknown}": there are ${CONTENDERS.map(({ id }) => id).join(", ")}`);
  }
  const chosen: Contender[] = [];
  for (const contender of CONTENDERS) {
    if (wanted !== undefined && !wanted.includes(contender.id)) continue;
    if (!flags.kept || await isKept(contender, setting)) chosen.push(contender);
  }
  const rows: Measured[] = [];
  for (const contender of chosen) {
    const run = await runContender(contender, setting);
    rows.push({ contender, run });
    console.error(renderBaselines(rows.slice(-1)));
  }
  const turns = Number(flags.turns ?? 0);
  const speeds = turns === 0
    ? []
    : await medianSpeeds(runtime, chosen.map((contender) => modelPlace(contender, setting)), SPEED_TOKENS, turns);
  const result = rows.map((row, index) => ({ ...row, tokensPerSecond: speeds[index] }));
  const document = JSON.stringify(
    { model, context, tokens: limit, turns, onnxruntime: runtime.version, rows: result },
    null,
    2,
  );
  const table = renderBaselines(result);
  if (flags.out !== undefined) {
    await writeFileDurably(`${flags.out}.json`, document + "\n");
    await writeFileDurably(`${flags.out}.md`, table + "\n");
  }
  console.log(flags.json ? document : table);
}

if (import.meta.main) await main(Deno.args);
