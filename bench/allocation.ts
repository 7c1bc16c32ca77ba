/**
 * `deno task bench allocation`: `channel-pruning` and `measured` against `uniform` at the same budget and with the same
 * tuning, through the path that users take.
 *
 *   deno task bench allocation --bits 1.5,2 --effort balanced --allocation uniform --allocation measured
 *
 * The last eighth of the calibration text is not used for calibration: options are chosen there, and the held-out text is only
 * reported. Finished rows and the importance are kept in `--cache`, and an interrupted row resumes, so pieces of the table
 * can be made one after the other. `--allocation` also takes JSON, `{"use":"measured","options":{"maxBits":3}}`.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { join } from "node:path";
import { openRuntime } from "../kernels/runtime/open.ts";
import { sha256 } from "../pipeline/artefact/durable.ts";
import { encodeText, readText } from "../pipeline/calibrate/text.ts";
import { decodeImportance, encodeImportance } from "../pipeline/compress_state.ts";
import { loadTokenizer } from "../pipeline/evaluate/tokenizer.ts";
import type { RecipeInput, StageSelectionInput } from "../pipeline/recipe/schema.ts";
import type { Stage } from "../pipeline/stream/stage.ts";
import { fisherDiagonalImportance } from "../plugins/importance/fisher_diagonal.ts";
import { builtinStages } from "../plugins/mod.ts";
import { keptResult } from "./kept_results.ts";
import { type QualityRun, runQuality } from "./quality_run.ts";

const MODEL = "tests/fixtures/tiny-llama";
const CONTEXT = 256;
const EVALUATION_TOKENS = 50_000;
/** Share of the calibration text that options are chosen on. */
const REST = 1 / 8;
const ALLOCATIONS: readonly StageSelectionInput[] = [
  "uniform",
  "channel-pruning",
  "measured",
  { use: "measured", options: { groups: 1 } },
];
/** What is tuned after the allocation; `none` shows it alone. */
const EFFORTS = ["none", "fast", "balanced", "best"] as const;

/** One row of the table. */
interface Row {
  readonly wanted: number;
  readonly allocation: string;
  readonly run: QualityRun;
}

/** `fisher-diagonal`, computed once for all rows. */
function keptImportance(directory: string, key: string): Stage<"importance", typeof fisherDiagonalImportance.options> {
  const path = join(directory, `importance-${sha256(key).slice(0, 24)}.bin`);
  return {
    ...fisherDiagonalImportance,
    name: "fisher-diagonal-kept",
    async run(input, options, context) {
      const kept = await Deno.readFile(path).catch(() => undefined);
      if (kept !== undefined) return decodeImportance(kept);
      const importance = await fisherDiagonalImportance.run(input, options, context);
      await Deno.writeFile(path, encodeImportance(importance));
      return importance;
    },
  };
}

/** The table, in Markdown; changes are against `uniform` at the same budget. */
export function renderRows(rows: readonly Row[], texts: readonly string[]): string {
  const change = (row: Row, text: string) => {
    const base = rows.find(({ wanted, allocation }) => wanted === row.wanted && allocation === "uniform");
    const before = base?.run.texts[text].kl, after = row.run.texts[text].kl;
    if (base === row || before === undefined || after === undefined) return "";
    return `${after < before ? "−" : "+"}${Math.abs(100 * (after / before - 1)).toFixed(1)} %`;
  };
  const cells = rows.map((row) => [
    row.wanted.toString(),
    row.allocation,
    row.run.bits.toFixed(3),
    row.run.modelBytes.toLocaleString("en"),
    ...texts.flatMap((text) => {
      const { perplexity, kl = NaN } = row.run.texts[text];
      return [perplexity.toFixed(2), kl.toFixed(4), change(row, text)];
    }),
    Object.entries(row.run.stageSeconds).find(([name]) => row.allocation.includes(name))?.[1].toFixed(0) ?? "0",
    row.run.seconds.toFixed(0),
  ]);
  const titles = ["bits", "allocation", "sign bits", "bytes"]
    .concat(texts.flatMap((text) => [`${text}: perplexity`, "KL", "to uniform"]), "seconds of allocation", "of all");
  const line = (row: readonly string[]) => `| ${row.join(" | ")} |`;
  return [line(titles), `|${"---|".repeat(titles.length)}`, ...cells.map(line)].join("\n");
}

/** Runs the bench. */
export async function main(args: readonly string[]): Promise<void> {
  const flags = parseArgs([...args], {
    string: ["bits", "effort", "model", "calibration", "heldout", "context", "provider", "tokens", "threads", "cache"],
    collect: ["allocation"],
    boolean: ["json"],
  });
  const { bits = "1,1.5,2", model = MODEL, cache = ".cache/bench-allocation" } = flags;
  const effort = EFFORTS.find((each) => each === (flags.effort ?? "balanced"));
  if (effort === undefined) throw new TypeError(`Cannot use --effort ${flags.effort}: it is one of ${EFFORTS}`);
  const given = (flags.allocation as string[] | undefined ?? []).map((text) =>
    text.startsWith("{") ? JSON.parse(text) as StageSelectionInput : text
  );
  const context = Number(flags.context ?? CONTEXT), limit = Number(flags.tokens ?? EVALUATION_TOKENS);
  const tokenizer = await loadTokenizer(model);
  const all = encodeText(await readText(flags.calibration ?? `${MODEL}/calibration.txt`), tokenizer);
  const cut = Math.floor(all.length * (1 - REST) / context) * context;
  const texts = {
    "rest of calibration": all.slice(cut, cut + limit),
    "held out": encodeText(await readText(flags.heldout ?? `${MODEL}/heldout.txt`), tokenizer, limit),
  };
  await Deno.mkdir(cache, { recursive: true });
  const source = join(cache, "calibration.i32");
  await Deno.writeFile(source, new Uint8Array(all.slice(0, cut).buffer));
  const versions = builtinStages.map(({ name, version }) => `${name} ${version}`);
  await using runtime = await openRuntime({
    provider: (flags.provider ?? "cpu") as "cpu" | "cuda" | "webgpu",
    threads: flags.threads === undefined ? undefined : Number(flags.threads),
  });
  const data = [model, sha256(new Uint8Array(all.buffer)), sha256(new Uint8Array(texts["held out"].buffer)), context];
  const plugins = [keptImportance(cache, JSON.stringify([data, runtime.provider]))];
  const rows: Row[] = [];
  for (const wanted of bits.split(",").map(Number)) {
    for (const allocation of given.length > 0 ? given : ALLOCATIONS) {
      const input: Omit<RecipeInput, "model" | "out"> = {
        bits: wanted,
        effort: effort === "none" ? "balanced" : effort,
        provider: runtime.provider,
        threads: flags.threads === undefined ? undefined : Number(flags.threads),
        stages: {
          importance: "fisher-diagonal-kept",
          allocation,
          ...(effort === "none" ? {} : { reconstruction: ["block-tuning"], distillation: "logits" }),
        },
        calibration: { source, length: context, sequences: cut / context },
      };
      const label = typeof allocation === "string" ? allocation : JSON.stringify(allocation).replaceAll('"', "");
      const key = { input: { ...input, threads: undefined }, data, versions, onnxruntime: runtime.version };
      const run = await keptResult(
        cache,
        key,
        (out) => runQuality(runtime, input, { model, out, texts, context, plugins, label: `${label} ${wanted} bits` }),
      );
      rows.push({ wanted, allocation: label, run });
      console.error(renderRows(rows, Object.keys(texts)));
    }
  }
  console.log(flags.json ? JSON.stringify(rows, null, 2) : renderRows(rows, Object.keys(texts)));
}

if (import.meta.main) await main(Deno.args);
