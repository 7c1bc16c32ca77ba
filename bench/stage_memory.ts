/**
 * `deno task bench stage_memory`: most resident memory of each stage of a calibrated compression, beside what `plan` says.
 *
 *   deno task bench stage_memory --model MODEL --calibration TEXT --sequences 64 --context 256 --retune-tokens 16384 --distil-tokens 65536
 *
 * `--blocks 0-3` makes a model of these decoder blocks only, and `--iterations 1` a factorization that takes little time, which
 * changes no memory: so a larger model takes a minute, on the CPU.
 *
 *   deno task bench stage_memory --model SMOLLM2 --calibration TEXT --blocks 0-3 --iterations 1 --sequences 8 --context 256 --distil-tokens 1024
 *
 * Linux only: the kernel's high-water mark of the process is read and reset between stages.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { openRuntime } from "../kernels/runtime/open.ts";
import { openCheckpoint } from "../pipeline/checkpoint/open.ts";
import { compress } from "../pipeline/compress.ts";
import { planRun } from "../pipeline/plan/plan.ts";
import { planInput } from "../pipeline/preflight.ts";
import { parseBlocks } from "../pipeline/cli/recipe_flags.ts";
import { parseRecipe } from "../pipeline/recipe/parse.ts";
import { resolveStages } from "../pipeline/recipe/resolve.ts";
import { selectLayers } from "../pipeline/start_run.ts";
import type { DbfEvent } from "../pipeline/stream/events.ts";
import { builtinStages } from "../plugins/mod.ts";

const MODEL = "tests/fixtures/tiny-llama";

/** A line of shell: Deno itself reads and writes nothing under /proc without all permissions. */
function shell(line: string): string {
  const { code, stdout, stderr } = new Deno.Command("sh", { args: ["-c", line] }).outputSync();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  if (code !== 0) throw new Error(`Cannot measure memory: ${text(stderr)}`);
  return text(stdout);
}

/** The high-water mark in MiB. */
function highWaterMark(): number {
  return Number(/VmHWM:\s+(\d+)/.exec(shell(`cat /proc/${Deno.pid}/status`))?.[1] ?? Number.NaN) / 1024;
}

/** Sets the high-water mark to what is resident now. */
function resetHighWaterMark(): void {
  shell(`echo 5 > /proc/${Deno.pid}/clear_refs`);
}

/** Runs the bench. */
export async function main(args: readonly string[]): Promise<void> {
  const flags = parseArgs([...args], {
    string: ["model", "calibration", "sequences", "context", "bits", "threads", "retune-tokens", "distil-tokens"]
      .concat("blocks", "iterations"),
    boolean: ["json"],
  });
  const { model = MODEL, calibration = `${MODEL}/calibration.txt` } = flags;
  const out = await Deno.makeTempDir({ prefix: "dbf-stage-memory-" });
  const recipe = parseRecipe({
    model,
    out,
    bits: Number(flags.bits ?? 1),
    blocks: parseBlocks(flags.blocks),
    stages: {
      importance: "fisher-diagonal",
      factorization: { use: "dbf-admm", options: { iterations: Number(flags.iterations ?? 30), sweeps: 1 } },
      reconstruction: [{ use: "block-tuning", options: { retuneTokens: Number(flags["retune-tokens"] ?? 16384) } }],
      distillation: { use: "logits", options: { tokens: Number(flags["distil-tokens"] ?? 65536) } },
    },
    calibration: {
      source: calibration,
      sequences: Number(flags.sequences ?? 64),
      length: Number(flags.context ?? 256),
    },
  });
  const stages = resolveStages(recipe, builtinStages);
  const peaks = new Map<string, number>();
  let stage = "start";
  const note = () => peaks.set(stage, Math.max(peaks.get(stage) ?? 0, highWaterMark()));
  const onEvent = (event: DbfEvent) => {
    if (event.type !== "stage-start" || !/^(model|block \d+)$/.test(event.subject) || event.stage === stage) return;
    note();
    stage = event.stage;
    resetHighWaterMark();
  };
  try {
    await using runtime = await openRuntime({
      threads: flags.threads === undefined ? undefined : Number(flags.threads),
    });
    using checkpoint = await openCheckpoint(model);
    const plan = planRun({
      ...planInput(recipe, selectLayers(recipe, checkpoint, stages), stages),
      bitsPerWeight: recipe.bits,
    });
    await compress(recipe, { runtime, onEvent });
    note();
    const rows = plan.stages.filter(({ name, whole }) => whole && peaks.has(name)).map(({ name, peakBytes }) => ({
      stage: name,
      measuredMiB: Math.round(peaks.get(name)!),
      plannedMiB: Math.round((peakBytes + plan.peak.processBytes) / 2 ** 20),
    }));
    console.log(
      flags.json ? JSON.stringify(rows, null, 2) : [
        "| stage | measured, MiB | planned, MiB |",
        "|---|---:|---:|",
        ...rows.map((row) => `| ${row.stage} | ${row.measuredMiB} | ${row.plannedMiB} |`),
      ].join("\n"),
    );
  } finally {
    await Deno.remove(out, { recursive: true });
  }
}

if (import.meta.main) await main(Deno.args);
