/**
 * `deno task bench generate`: tokens per second of the same decoder with its linear layers in f32, as MatMulNBits of 4 bits,
 * and as double-binary layers, generated as `dbf generate` does. Contenders take turns; ratios are medians over turns.
 *
 *   deno task bench generate --model DIR --bits 1.5 --tokens 64 --turns 5
 *
 * The double-binary layers have random signs: what a layer holds does not change its time, and factorizing takes long.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { join } from "node:path";
import { openRuntime } from "../kernels/runtime/open.ts";
import type { Runtime } from "../kernels/runtime/types.ts";
import { viewCheckpoint } from "../pipeline/artefact/checkpoint_view.ts";
import { describeArtefact } from "../pipeline/artefact/describe.ts";
import { openCheckpoint } from "../pipeline/checkpoint/open.ts";
import { generate } from "../pipeline/evaluate/generate.ts";
import type { LanguageModel } from "../pipeline/evaluate/language_model.ts";
import { openModel } from "../pipeline/evaluate/open_model.ts";
import { exportModel } from "../pipeline/export/export_model.ts";
import { onnxTarget } from "../plugins/target/onnx/stage.ts";
import { fourBitTarget, randomBinaryTarget } from "./timing_targets.ts";

const PROMPT = "It was a bright cold day in April, and the clocks were striking";

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1];
}

/** Tokens per second after the first one. */
async function speed(model: LanguageModel, tokens: number): Promise<number> {
  const prompt = (await model.tokenizer()).encode(PROMPT, { specials: true });
  let count = 0, started = 0;
  for await (const _ of generate(model, prompt, { maxTokens: tokens, ignoreEos: true, temperature: 0 })) {
    if (count++ === 0) started = performance.now();
  }
  return (count - 1) / ((performance.now() - started) / 1000);
}

/**
 * Tokens per second of exported models, which take turns: medians over `turns` after one to warm up.
 *
 * @param directories Exported models.
 * @param tokens Generated a turn, greedily; the first is not counted.
 */
export async function medianSpeeds(
  runtime: Runtime,
  directories: readonly string[],
  tokens: number,
  turns: number,
): Promise<number[]> {
  const models: { readonly model: LanguageModel; readonly speeds: number[] }[] = [];
  try {
    for (const directory of directories) models.push({ model: await openModel(directory, runtime), speeds: [] });
    for (let turn = -1; turn < turns; turn++) {
      for (const { model, speeds } of models) {
        const measured = await speed(model, tokens);
        if (turn >= 0) speeds.push(measured);
      }
    }
    return models.map(({ speeds }) => median(speeds));
  } finally {
    for (const { model } of models) await model[Symbol.asyncDispose]();
  }
}

/** Runs the bench with the arguments after its name. */
export async function main(args: readonly string[]): Promise<void> {
  const flags = parseArgs([...args], {
    string: ["model", "bits", "tokens", "turns", "threads"],
  });
  const path = flags.model ?? "tests/fixtures/tiny-llama";
  const bits = Number(flags.bits ?? 1.5), tokens = Number(flags.tokens ?? 64), turns = Number(flags.turns ?? 5);
  const threads = flags.threads === undefined ? undefined : Number(flags.threads);
  const directory = await Deno.makeTempDir({ prefix: "dbf-bench-" });
  const models: { name: string; model: LanguageModel; speeds: number[] }[] = [];
  await using runtime = await openRuntime({ threads });
  try {
    using source = viewCheckpoint(await openCheckpoint(path));
    const description = await describeArtefact(source);
    const contenders = [
      { name: "f32", target: onnxTarget, accuracy: "exact" },
      { name: "MatMulNBits 4-bit", target: fourBitTarget, accuracy: "exact" },
      { name: `dbf ${bits} bits exact`, target: randomBinaryTarget(bits), accuracy: "exact" },
      { name: `dbf ${bits} bits fast`, target: randomBinaryTarget(bits), accuracy: "fast" },
    ];
    for (const { name, target, accuracy } of contenders) {
      const place = join(directory, String(models.length));
      await exportModel({ source, model: description, directory: place, target });
      // read by the kernels when the session makes them
      Deno.env.set("DBF_ACCURACY", accuracy);
      models.push({ name, model: await openModel(place, runtime), speeds: [] });
    }
    for (let turn = -1; turn < turns; turn++) {
      for (const { model, speeds } of models) {
        const measured = await speed(model, tokens);
        if (turn >= 0) speeds.push(measured);
      }
    }
    const kernels = runtime.nativeKernels?.isa ?? "none: portable bodies";
    console.log(
      `${path}: ${tokens} tokens, median of ${turns} turns, onnxruntime ${runtime.version}, kernels ${kernels}`,
    );
    console.log(`${"".padEnd(26)}${"tokens/s".padStart(10)}${"/ f32".padStart(8)}${"/ 4-bit".padStart(9)}`);
    for (const { name, speeds } of models) {
      const over = (other: number) =>
        median(speeds.map((value, turn) => value / models[other].speeds[turn])).toFixed(2);
      console.log(name.padEnd(26) + median(speeds).toFixed(1).padStart(10) + over(0).padStart(8) + over(1).padStart(9));
    }
  } finally {
    for (const { model } of models) await model[Symbol.asyncDispose]();
    await Deno.remove(directory, { recursive: true });
  }
}

if (import.meta.main) await main(Deno.args);
