/**
 * `deno task demo`: compresses the bundled tiny-llama to 2 bits, evaluates it before and after on held-out text, and
 * generates from the exported ONNX. Needs no network, takes a minute or two on two cores, writes into
 * ./out/demo; with `--restart` it does not resume.
 *
 * @module
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  compress,
  type CompressReport,
  evaluate,
  type EvaluationResult,
  generate,
  type LanguageModel,
  openModel,
  openRuntime,
  type RecipeInput,
  type Runtime,
} from "../../mod.ts";
import { readTokens } from "../../pipeline/calibrate/text.ts";
import { makeOutput, processTerminal } from "../../pipeline/cli/output.ts";
import { renderPairs } from "../../pipeline/cli/table.ts";
import { formatBytes, formatDuration } from "../../pipeline/cli/units.ts";
import { prepareKernels } from "./kernels.ts";

const MODEL = fileURLToPath(new URL("../../tests/fixtures/tiny-llama", import.meta.url));
const OUT = join("out", "demo");
/** The held-out text's first tokens: enough for a standard error of 3 %. */
const EVALUATED_TOKENS = 16_384;
const CONTEXT = 256;
const PROMPT = "Gentlemen of the Senate and Gentlemen of the House of Representatives:";

/** What the demo does; `dbf compress --recipe` takes the same as JSON. */
export const RECIPE: RecipeInput = {
  model: MODEL,
  out: OUT,
  bits: 2,
  effort: "fast",
  calibration: { source: join(MODEL, "calibration.txt"), sequences: 64, length: CONTEXT },
  stages: {
    importance: "fisher-diagonal",
    distillation: { use: "logits", options: { epochs: 1 } },
  },
};

const output = makeOutput(processTerminal(), false);
const started = performance.now();

async function measure(model: LanguageModel, baseline?: LanguageModel): Promise<EvaluationResult> {
  const ids = await readTokens(join(MODEL, "heldout.txt"), model, { limit: EVALUATED_TOKENS });
  return await evaluate(model, ids, { context: CONTEXT, baseline, onEvent: output.event });
}

async function sample(model: LanguageModel): Promise<string> {
  const tokenizer = await model.tokenizer();
  let text = "";
  for await (const token of generate(model, tokenizer.encode(PROMPT), { maxTokens: 48 })) text += token.text;
  return text;
}

/** Bytes of the files in a directory. */
async function sizeOf(directory: string): Promise<number> {
  let bytes = 0;
  for await (const { name } of Deno.readDir(directory)) {
    if (/\.onnx(\.data)?$/.test(name)) bytes += (await Deno.stat(join(directory, name))).size;
  }
  return bytes;
}

function step(number: number, text: string): void {
  output.print(`\n[${number}/4] ${text}`);
}

async function run(runtime: Runtime, kernels: string): Promise<void> {
  step(1, `the full-precision model, on ${EVALUATED_TOKENS} tokens of held-out text`);
  await using before = await openModel(MODEL, runtime, { onEvent: output.event });
  const full = await measure(before);
  output.print(`perplexity ${full.perplexity.toFixed(2)}`);

  step(2, `compressing to ${RECIPE.bits} sign bits per weight (interrupt it and run again: it resumes)`);
  const report: CompressReport = await compress(RECIPE, {
    runtime,
    onEvent: output.event,
    restart: Deno.args.includes("--restart"),
  });
  output.print(
    `${report.layers.length} layers in ${formatDuration(report.elapsedMs / 1000)}, ONNX in ${report.exported}`,
  );

  step(3, "the compressed model, on the same tokens");
  await using after = await openModel(OUT, runtime);
  const compressed = await measure(after, before);
  output.print(`perplexity ${compressed.perplexity.toFixed(2)}`);

  step(4, "a text from the exported ONNX");
  output.print(`${PROMPT}${await sample(after)}`);

  const sizes = [await sizeOf(join(before.graph, "..")), await sizeOf(report.exported)];
  output.print(`\n${
    renderPairs([
      [
        "model",
        `tiny-llama, ${report.layers.length} linear layers at ${report.bitsPerWeight.toFixed(2)} sign bits per weight`,
      ],
      ["size of the ONNX", `${formatBytes(sizes[0])} before, ${formatBytes(sizes[1])} after (embeddings stay f32)`],
      ["perplexity", `${withError(full)} before, ${withError(compressed)} after`],
      [
        "KL to the original",
        `${compressed.kl!.mean.toFixed(3)} nats a token, same top token ${(100 * compressed.sameTop1!).toFixed(1)} %`,
      ],
      ["ran on", `onnxruntime ${runtime.version} through ${runtime.binding}, ${kernels}`],
      ["time", formatDuration((performance.now() - started) / 1000)],
    ])
  }\n\nNext: deno task dbf generate ${OUT} "Your prompt" --temperature 0.8`);
}

function withError({ perplexity, perplexityStderr }: EvaluationResult): string {
  return `${perplexity.toFixed(2)} ± ${perplexityStderr.toFixed(2)}`;
}

if (import.meta.main) {
  output.print("dbf demo: a small Llama, compressed to binary matrices and run again");
  await prepareKernels((message) => output.print(message));
  await using runtime = await openRuntime();
  const kernels = runtime.nativeKernels === undefined
    ? "portable function bodies"
    : `native kernels (${runtime.nativeKernels.isa})`;
  await run(runtime, kernels);
  output.end();
}
