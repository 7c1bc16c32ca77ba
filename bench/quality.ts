/**
 * `deno task bench quality`: perplexity and KL divergence of the bundled model after calibrated compression, through the
 * same path as users take: compress, export, evaluate the exported ONNX.
 *
 * Held-out text is only reported: hyperparameters were chosen on a part of the calibration text.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { openRuntime } from "../kernels/runtime/open.ts";
import type { Runtime } from "../kernels/runtime/types.ts";
import { encodeText, readText } from "../pipeline/calibrate/text.ts";
import { evaluate } from "../pipeline/evaluate/evaluate.ts";
import { openModel } from "../pipeline/evaluate/open_model.ts";
import type { RecipeInput } from "../pipeline/recipe/schema.ts";
import { runQuality } from "./quality_run.ts";

const MODEL = "tests/fixtures/tiny-llama";
const CONTEXT = 256;
/** Scored tokens of the held-out text, as all figures for this model. */
const EVALUATION_TOKENS = 50_000;

/** What other recipes reach on this model and text, at bits per weight: PyTorch, 256 windows of 256 tokens. */
const PUBLISHED: readonly { readonly recipe: string; readonly perplexity: Readonly<Record<string, number>> }[] = [
  { recipe: "reference recipe (PyTorch)", perplexity: { "1": 188.7 } },
  { recipe: "prototype of ours (PyTorch)", perplexity: { "1": 31.5, "1.5": 26.8, "2": 24.0 } },
];

/** Steps switched off, for the ablation. */
const ABLATIONS: Readonly<Record<string, RecipeInput["stages"]>> = {
  "all steps": {},
  "no distillation": { distillation: "none" },
  "no dense retuning": { reconstruction: [] },
  "neither": { reconstruction: [], distillation: "none" },
  "signs tuned in blocks too": { reconstruction: [{ use: "block-tuning", options: { signEpochs: 2 } }] },
  "activation importance": { importance: "activation" },
  "no importance": { importance: "none" },
  "error compensation, no training": { reconstruction: ["error-compensation"], distillation: "none" },
  "error compensation and distillation": { reconstruction: ["error-compensation"] },
};

/** One line of the table. */
interface Row {
  readonly recipe: string;
  readonly bits: number;
  readonly perplexity: number;
  readonly standardError?: number;
  readonly kl?: number;
  readonly sameTop1?: number;
  readonly seconds?: number;
  readonly peakBytes?: number;
  /** Training loss of the distillation at every tenth of its steps, nats a token. */
  readonly curve?: readonly number[];
}

/** Compresses with a recipe and evaluates what was exported; nothing of it is kept. */
async function measure(
  runtime: Runtime,
  recipe: string,
  input: Omit<RecipeInput, "model" | "out">,
  flags: { readonly model: string; readonly heldOut: Int32Array; readonly context: number },
): Promise<Row> {
  const out = await Deno.makeTempDir({ prefix: "dbf-quality-" });
  try {
    const { model, context, heldOut } = flags;
    const run = await runQuality(runtime, input, { model, out, context, texts: { heldOut }, label: recipe });
    const { perplexity, perplexityStderr: standardError, kl, sameTop1 } = run.texts.heldOut;
    const { bits, seconds, peakBytes, curve } = run;
    return { recipe, bits, perplexity, standardError, kl, sameTop1, seconds, peakBytes, curve };
  } finally {
    await Deno.remove(out, { recursive: true });
  }
}

function render(rows: readonly Row[]): string {
  const number = (value: number | undefined, digits: number) => value === undefined ? "–" : value.toFixed(digits);
  const lines = rows.map((row) =>
    `| ${row.recipe} | ${number(row.bits, 2)} | ${number(row.perplexity, 2)} | ${number(row.kl, 4)} | ` +
    `${row.sameTop1 === undefined ? "–" : `${(100 * row.sameTop1).toFixed(1)} %`} | ${number(row.seconds, 0)} | ` +
    `${row.peakBytes === undefined ? "–" : (row.peakBytes / 2 ** 20).toFixed(0)} |`
  );
  return [
    "| recipe | bits | perplexity | KL | same top-1 | seconds | peak RSS (MiB) |",
    "|---|---:|---:|---:|---:|---:|---:|",
    ...lines,
  ].join("\n");
}

/** Runs the bench. */
export async function main(args: readonly string[]): Promise<void> {
  const flags = parseArgs([...args], {
    string: ["bits", "effort", "model", "calibration", "heldout", "context", "sequences", "provider", "tokens"],
    boolean: ["json", "ablation"],
  });
  const { bits: budgets = "1,1.5,2", effort = "balanced", model: source = MODEL } = flags;
  const context = Number(flags.context ?? CONTEXT);
  await using runtime = await openRuntime({ provider: (flags.provider ?? "cpu") as "cpu" | "cuda" });
  await using full = await openModel(source, runtime);
  const text = await readText(flags.heldout ?? `${MODEL}/heldout.txt`);
  const heldOut = encodeText(text, await full.tokenizer(), Number(flags.tokens ?? EVALUATION_TOKENS));
  const exact = await evaluate(full, heldOut, { context });
  const rows: Row[] = [{ recipe: "full precision", bits: 32, perplexity: exact.perplexity }];
  const stages = {
    importance: "fisher-diagonal",
    reconstruction: ["block-tuning"],
    distillation: "logits",
  } satisfies RecipeInput["stages"];
  const options = { model: source, heldOut, context };
  for (const bits of budgets.split(",").map(Number)) {
    for (const { recipe, perplexity } of PUBLISHED) {
      const known = perplexity[String(bits)];
      if (known !== undefined && source === MODEL) rows.push({ recipe, bits, perplexity: known });
    }
    const variants = flags.ablation ? Object.entries(ABLATIONS) : [[effort, {}] as const];
    for (const [name, change] of variants) {
      const input = {
        bits,
        effort: effort as "fast" | "balanced" | "best",
        provider: runtime.provider,
        stages: { ...stages, ...change },
        calibration: {
          source: flags.calibration ?? `${MODEL}/calibration.txt`,
          length: context,
          sequences: Number(flags.sequences ?? 4096),
        },
      };
      rows.push(await measure(runtime, name, input, options));
      console.error(render(rows.slice(-1)));
    }
  }
  console.log(flags.json ? JSON.stringify(rows, null, 2) : render(rows));
}

if (import.meta.main) await main(Deno.args);
