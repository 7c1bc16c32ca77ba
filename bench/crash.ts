/**
 * `deno task bench crash`: is anything lost when the process is killed?
 *
 * Runs a tuned and distilled compression of a tiny model, kills it (SIGKILL) at random moments of every phase, runs it again
 * and compares the bytes of what comes out with an uninterrupted run's. The journal itself is not compared: it also tells of
 * attempts.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { join, relative } from "node:path";
import { parseArgs } from "@std/cli/parse-args";
import { TextLineStream } from "@std/streams/text-line-stream";
import { randomFrom } from "./fuzz_mutations.ts";

const MODEL = new URL("../tests/fixtures/architectures/llama", import.meta.url).pathname;
const PROGRAM = new URL("../mod.ts", import.meta.url).pathname;

/** Phases in the order of a run; each is journalled in its own way. */
const PHASES = [
  "importance",
  "allocation",
  "tuning",
  "commit",
  "distillation",
  "commit distilled",
  "copy",
  "export",
] as const;
type Phase = typeof PHASES[number];

/** Longest wait between an event and the kill. */
const DELAY_MS = 40;
/** The same for the allocation, which is done and kept in milliseconds. */
const ALLOCATION_MS = 4;

interface ProgressEvent {
  readonly type: string;
  readonly stage?: string;
}

/** The phase that an event belongs to; `distilled` says whether the distillation has ended before it. */
function phaseOf({ type, stage = "" }: ProgressEvent, distilled: boolean): Phase | undefined {
  if (type === "layer-committed") return distilled ? "commit distilled" : "commit";
  if (type === "export-progress" || stage === "onnx") return "export";
  if (stage === "copy") return "copy";
  if (stage === "fisher-diagonal") return "importance";
  if (stage === "uniform") return "allocation";
  if (stage === "logits") return distilled ? undefined : "distillation";
  return stage.startsWith("block-tuning") || stage === "dbf-admm" ? "tuning" : undefined;
}

/** SHA-256 of every file of a finished run but its journal, by path. */
async function hashes(directory: string, root = directory): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for await (const { name, isDirectory } of Deno.readDir(directory)) {
    const path = join(directory, name);
    if (isDirectory) { for (const [key, value] of await hashes(path, root)) found.set(key, value); }
    else if (name !== "journal.jsonl") {
      found.set(relative(root, path), createHash("sha256").update(await Deno.readFile(path)).digest("hex"));
    }
  }
  return found;
}

/** Starts a run; kills it `skip` events into `phase` and `delayMs` later. Returns the phase it was killed in, or undefined when it ended by itself. */
async function runOnce(
  recipe: string,
  out: string,
  kill?: { readonly phase: Phase; readonly skip: number; readonly delayMs: number },
): Promise<Phase | undefined> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", PROGRAM, "compress", "--recipe", recipe, "--set", `out=${out}`, "--json"],
    stdout: "null",
    stderr: "piped",
  }).spawn();
  let distilled = false, left = kill?.skip ?? Infinity, last: Phase | undefined, text = "";
  const lines = child.stderr.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream());
  for await (const line of lines) {
    if (!line.startsWith("{")) {
      text += `${line}\n`;
      continue;
    }
    const event: ProgressEvent = JSON.parse(line);
    if (event.type === "stage-end" && event.stage === "logits") distilled = true;
    const phase = phaseOf(event, distilled);
    last = phase ?? last;
    if (phase === kill?.phase && left-- === 0) {
      setTimeout(() => {
        try {
          child.kill("SIGKILL");
        } catch { /* it ended before */ }
      }, kill!.delayMs);
    }
  }
  const { success, signal } = await child.status;
  if (signal === "SIGKILL") return last;
  if (!success) throw new Error(`Cannot go on as a run failed in ${out}:\n${text}`);
  return undefined;
}

/**
 * Runs the benchmark.
 *
 * @param args `--kills N` (default 100), `--each N` kills in each phase at least (default 10), `--seed N`, `--json`
 * @throws {Error} when a resumed run fails or ends with other bytes.
 */
export async function main(args: readonly string[]): Promise<void> {
  const flags = parseArgs([...args], { string: ["kills", "each", "seed"], boolean: ["json"] });
  const wanted = Number(flags.kills ?? 100), each = Number(flags.each ?? 10), seed = Number(flags.seed ?? 1);
  const random = randomFrom(seed);
  const root = await Deno.makeTempDir({ prefix: "dbf-crash-" });
  const counts = new Map<Phase, number>(PHASES.map((phase) => [phase, 0]));
  let kills = 0, runs = 0;
  try {
    const tokens = join(root, "tokens.json"), recipe = join(root, "recipe.json");
    await Deno.writeTextFile(tokens, JSON.stringify(Array.from({ length: 1024 }, () => Math.floor(random() * 320))));
    await Deno.writeTextFile(
      recipe,
      JSON.stringify({
        model: MODEL,
        out: root,
        bits: 1.5,
        effort: "fast",
        calibration: { source: tokens, sequences: 16, length: 64 },
        stages: {
          importance: "fisher-diagonal",
          reconstruction: ["block-tuning"],
          distillation: { use: "logits", options: { saveSeconds: 0 } },
          factorization: { use: "dbf-admm", options: { iterations: 8, sweeps: 1 } },
        },
      }),
    );
    await runOnce(recipe, join(root, "whole"));
    const expected = await hashes(join(root, "whole"));
    while (kills < wanted || PHASES.some((phase) => counts.get(phase)! < each)) {
      const out = join(root, `run-${runs++}`);
      // A run is killed at several places on its way; each time it goes on from there.
      for (let from = 0;;) {
        const ahead = PHASES.slice(from);
        const rarest = Math.min(...ahead.map((phase) => counts.get(phase)!));
        const candidates = ahead.filter((phase) => counts.get(phase)! <= rarest + 1);
        const phase = candidates[Math.floor(random() * candidates.length)];
        const skip = Math.floor(random() * 4);
        const delayMs = random() * (phase === "allocation" ? ALLOCATION_MS : DELAY_MS);
        const killed = await runOnce(recipe, out, { phase, skip: phase === "allocation" ? skip % 2 : skip, delayMs });
        if (killed === undefined) break;
        counts.set(killed, counts.get(killed)! + 1);
        kills++;
        from = PHASES.indexOf(phase) + (random() < 0.5 ? 0 : 1);
        if (from >= PHASES.length) {
          await runOnce(recipe, out);
          break;
        }
      }
      const found = await hashes(out);
      const differing = [...new Set([...expected.keys(), ...found.keys()])]
        .filter((file) => expected.get(file) !== found.get(file));
      if (differing.length > 0) {
        throw new Error(
          `Cannot call run ${runs - 1} (seed ${seed}) equal, these files differ: ${differing.join(", ")}`,
        );
      }
      await Deno.remove(out, { recursive: true });
      if (!flags.json) console.error(`${kills} kills, ${runs} runs, all equal`);
    }
  } finally {
    await Deno.remove(root, { recursive: true });
  }
  if (flags.json) {
    console.log(JSON.stringify({ seed, kills, runs, byPhase: Object.fromEntries(counts), equal: true }, null, 2));
    return;
  }
  console.log(`\n${kills} kills in ${runs} runs; every finished run equals the uninterrupted one, byte for byte\n`);
  console.log("| phase | kills |\n|---|---:|");
  for (const [phase, count] of counts) console.log(`| ${phase} | ${count} |`);
}
