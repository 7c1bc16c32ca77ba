/**
 * `deno task bench quality`: perplexity and KL divergence of the bundled model after calibrated compression, through the
 * same path as users take: compress, export, evaluate the exported ONNX.
 *
 *   deno task bench quality --bits 1,1.5,2 --effort balanced,best --peer-python PYTHON
 *   deno task bench quality --bits 1 --ablation --sequences 256 --retune-tokens 65536 --distil-tokens 262144
 *   deno task bench quality --bits 1 --ablation --only "all steps;no importance"
 *
 * Held-out text is only reported: hyperparameters were chosen on a part of the calibration text. Finished rows are kept in
 * `--cache`, and an interrupted row resumes, so pieces of the table can be made one after the other.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { openRuntime } from "../kernels/runtime/open.ts";
import { sha256 } from "../pipeline/artefact/durable.ts";
import { encodeText, readText } from "../pipeline/calibrate/text.ts";
import { evaluate } from "../pipeline/evaluate/evaluate.ts";
import { openModel } from "../pipeline/evaluate/open_model.ts";
import type { RecipeInput } from "../pipeline/recipe/schema.ts";
import { builtinStages } from "../plugins/mod.ts";
import { keptResult } from "./kept_results.ts";
import { peerRow, type QualityRow, renderQuality } from "./quality_rows.ts";
import { runQuality } from "./quality_run.ts";

const MODEL = "tests/fixtures/tiny-llama";
const CONTEXT = 256;
/** Scored tokens of the held-out text, as all figures for this model. */
const EVALUATION_TOKENS = 50_000;
/** Windows of calibration text: more than the bundled text has. */
const MOST_SEQUENCES = 4096;
const EFFORTS = ["fast", "balanced", "best"] as const;

/** Lengths that replace those of the preset. */
interface Lengths {
  readonly retuneTokens?: number;
  readonly distilTokens?: number;
}

type Stages = NonNullable<RecipeInput["stages"]>;

/** All steps of a calibrated compression. */
function allSteps({ retuneTokens, distilTokens }: Lengths): Stages {
  const length = <T>(name: string, tokens: T | undefined) => tokens === undefined ? {} : { [name]: tokens };
  return {
    importance: "fisher-diagonal",
    reconstruction: [{ use: "block-tuning", options: length("retuneTokens", retuneTokens) }],
    distillation: { use: "logits", options: length("tokens", distilTokens) },
  };
}

/** Each step on and off. */
function ablations(lengths: Lengths): Readonly<Record<string, Stages>> {
  const { retuneTokens } = lengths;
  const tuning = (options: Record<string, unknown>) => ({
    reconstruction: [{
      use: "block-tuning",
      options: { ...(retuneTokens === undefined ? {} : { retuneTokens }), ...options },
    }],
  });
  return {
    "all steps": {},
    "no importance": { importance: "none" },
    "activation importance": { importance: "activation" },
    "no dense retuning": { reconstruction: [] },
    "error compensation instead of retuning": { reconstruction: ["error-compensation"] },
    "signs tuned in blocks too": tuning({ signEpochs: 2 }),
    "no distillation": { distillation: "none" },
    "signs tuned in blocks, no distillation": { ...tuning({ signEpochs: 2 }), distillation: "none" },
    "error compensation only, no gradients": {
      importance: "activation",
      reconstruction: ["error-compensation"],
      distillation: "none",
    },
    "factorization only": { importance: "none", reconstruction: [], distillation: "none" },
  };
}

/** Runs the bench. */
export async function main(args: readonly string[]): Promise<void> {
  const flags = parseArgs([...args], {
    string: [
      ...["bits", "effort", "model", "calibration", "heldout", "context", "sequences", "provider", "tokens", "threads"],
      ...["cache", "retune-tokens", "distil-tokens", "generated", "peer-python", "only"],
    ],
    boolean: ["json", "ablation"],
  });
  const number = (text: string | undefined) => text === undefined ? undefined : Number(text);
  const { bits: budgets = "1,1.5,2", model: source = MODEL, cache = ".cache/bench-quality" } = flags;
  const calibration = flags.calibration ?? `${MODEL}/calibration.txt`,
    heldOut = flags.heldout ?? `${MODEL}/heldout.txt`;
  const efforts = (flags.effort ?? "balanced").split(",").map((name: string) => {
    const effort = EFFORTS.find((each) => each === name);
    if (effort === undefined) throw new TypeError(`Cannot use --effort ${name}: it is one of ${EFFORTS}`);
    return effort;
  });
  const context = number(flags.context) ?? CONTEXT, limit = number(flags.tokens) ?? EVALUATION_TOKENS;
  const threads = number(flags.threads), generated = number(flags.generated);
  const lengths = { retuneTokens: number(flags["retune-tokens"]), distilTokens: number(flags["distil-tokens"]) };
  await using runtime = await openRuntime({
    provider: (flags.provider ?? "cpu") as "cpu" | "cuda" | "webgpu",
    threads,
  });
  await using full = await openModel(source, runtime);
  const texts = { "held out": encodeText(await readText(heldOut), await full.tokenizer(), limit) };
  const data = [source, sha256(await readText(calibration)), sha256(new Uint8Array(texts["held out"].buffer)), context];
  const versions = builtinStages.map(({ name, version }) => `${name} ${version}`);
  const exact = await keptResult(cache, { exact: data }, async () => {
    const { perplexity } = await evaluate(full, texts["held out"], { context });
    return { perplexity };
  });
  const rows: QualityRow[] = [{ recipe: "full precision", bits: 32, ...exact }];
  const show = (row: QualityRow) => {
    rows.push(row);
    console.error(renderQuality([row]));
  };
  for (const bits of budgets.split(",").map(Number)) {
    const peer = flags["peer-python"];
    if (peer !== undefined) {
      const options = { python: peer, model: source, calibration, heldOut, bits, context, tokens: limit, threads };
      show(await keptResult(cache, { peer: { ...options, python: "", threads: 0 }, data }, () => peerRow(options)));
    }
    const only = flags.only?.split(";");
    const variants = efforts.flatMap((effort: typeof EFFORTS[number]) =>
      flags.ablation
        ? Object.entries(ablations(lengths)).filter(([name]) => only?.includes(name) ?? true)
          .map(([name, stages]) => ({ effort, name, stages }))
        : [{ effort, name: `dbf, ${effort}`, stages: {} }]
    );
    for (const { effort, name, stages } of variants) {
      const input: Omit<RecipeInput, "model" | "out"> = {
        bits,
        effort,
        provider: runtime.provider,
        threads,
        stages: { ...allSteps(lengths), ...stages },
        calibration: {
          source: calibration,
          length: context,
          sequences: number(flags.sequences) ?? MOST_SEQUENCES,
          ...(generated === undefined ? {} : { generated }),
        },
      };
      const key = { input: { ...input, threads: 0 }, data, versions, onnxruntime: runtime.version };
      const run = await keptResult(
        cache,
        key,
        (out) => runQuality(runtime, input, { model: source, out, texts, context, label: `${name} ${bits} bits` }),
      );
      const { perplexity, perplexityStderr, kl, sameTop1 } = run.texts["held out"];
      const { seconds, peakBytes, curve } = run;
      show({ recipe: name, bits: run.bits, perplexity, perplexityStderr, kl, sameTop1, seconds, peakBytes, curve });
    }
  }
  console.log(flags.json ? JSON.stringify(rows, null, 2) : renderQuality(rows));
}

if (import.meta.main) await main(Deno.args);
