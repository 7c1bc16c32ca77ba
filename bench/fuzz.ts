/**
 * `deno task fuzz`: mangled input of every format that dbf reads. Each must end in a clear error or a correct result: no crash,
 * no hang over a second, no read outside the folder (the task lets Deno read the project and temporary files only, so one
 * would be an error), no allocation over the stated bound.
 *
 * @module
 */

import process from "node:process";
import { parseArgs } from "@std/cli/parse-args";
import { countAllocations } from "./fuzz_allocations.ts";
import { FORMATS, type FuzzFormat } from "./fuzz_formats.ts";
import { mutateBytes, randomFrom } from "./fuzz_mutations.ts";

/** Longest time that one input may take, as a person waits. */
const MAX_MS = 1000;
/** Most that reading an input may allocate in arrays and buffers, whatever it claims: a constant and a multiple of its size. */
const MAX_ALLOCATED = { bytes: 4 * 2 ** 20, perInputByte: 32 };
/** Most that the process's peak may grow over all inputs of a format: garbage that is not collected yet. */
const MAX_GROWTH_BYTES = 256 * 2 ** 20;
/** Share of the inputs whose bytes are mangled, whatever the format. */
const BYTES_SHARE = 0.25;
/** A tenth of a second beyond the product's own limit, where it ends something by a clock. */
const CLOCK_TOLERANCE_MS = 100;

/**
 * Whether an error says what is wrong with which input: ours begin so. Anything else is the engine's own, from code that lacks
 * a check.
 */
function isClear(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  return /^Cannot (?!read propert|convert|destructure|mix|access|set propert|create propert)/.test(error.message);
}

/** What came of one format's inputs. */
export interface FuzzResult {
  readonly format: string;
  readonly inputs: number;
  /** Inputs that the first check (syntax) let through. */
  readonly pastFirstCheck: number;
  readonly accepted: number;
  readonly slowestMs: number;
  /** Most that one input made arrays and buffers of, in bytes. */
  readonly allocatedBytes: number;
  /** Growth of the process's peak memory over all inputs. */
  readonly growthBytes: number;
  /** What went wrong, with the number of the input. */
  readonly problems: readonly string[];
}

/** Most memory that the process ever held, in bytes. */
const peakBytes = () => process.resourceUsage().maxRSS * 1024;

/**
 * Feeds one format with mangled inputs.
 *
 * @param seed Equal seeds give equal inputs.
 * @param maxMs Longest time that one input may take.
 */
export async function fuzz(format: FuzzFormat, inputs: number, seed: number, maxMs = MAX_MS): Promise<FuzzResult> {
  const random = randomFrom(seed);
  const folder = await Deno.makeTempDir({ prefix: "dbf-fuzz-" });
  const problems: string[] = [];
  let pastFirstCheck = 0, accepted = 0, slowestMs = 0, allocatedBytes = 0;
  try {
    await using prepared = await format.prepare(folder);
    const before = peakBytes();
    using allocations = countAllocations();
    for (let i = 0; i < inputs; i++) {
      const bytes = random() < BYTES_SHARE ? mutateBytes(prepared.bytes, random) : prepared.mutate(random);
      if (prepared.syntax(bytes)) pastFirstCheck++;
      allocations.take();
      const start = performance.now();
      try {
        await prepared.read(bytes);
        accepted++;
      } catch (error) {
        if (error instanceof Deno.errors.NotCapable) problems.push(`input ${i}: looked outside: ${error.message}`);
        else if (!isClear(error)) {
          problems.push(`input ${i}: ${error instanceof Error ? error.stack?.slice(0, 600) : String(error)}`);
        }
      }
      const elapsed = performance.now() - start, allocated = allocations.take();
      slowestMs = Math.max(slowestMs, elapsed);
      allocatedBytes = Math.max(allocatedBytes, allocated);
      if (elapsed > maxMs + CLOCK_TOLERANCE_MS) problems.push(`input ${i}: took ${elapsed.toFixed(0)} ms`);
      if (allocated > MAX_ALLOCATED.bytes + MAX_ALLOCATED.perInputByte * bytes.length) {
        problems.push(`input ${i}: ${bytes.length} bytes made it allocate ${allocated}`);
      }
    }
    const growthBytes = Math.max(0, peakBytes() - before);
    if (growthBytes > MAX_GROWTH_BYTES) problems.push(`memory grew by ${growthBytes} bytes`);
    if (pastFirstCheck < inputs / 2) problems.push(`only ${pastFirstCheck} of ${inputs} got past the first check`);
    return { format: format.name, inputs, pastFirstCheck, accepted, slowestMs, allocatedBytes, growthBytes, problems };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/**
 * Runs all formats.
 *
 * @param args `--inputs N` a format (default 12,000), `--format NAME`, `--seed N`, `--json`
 * @throws {Error} when an input was not answered as it should be.
 */
export async function main(args: readonly string[]): Promise<void> {
  const flags = parseArgs([...args], { string: ["inputs", "format", "seed"], boolean: ["json"] });
  const inputs = Number(flags.inputs ?? 12_000), seed = Number(flags.seed ?? 1);
  const results: FuzzResult[] = [];
  for (const format of FORMATS.filter(({ name }) => flags.format === undefined || name === flags.format)) {
    results.push(await fuzz(format, inputs, seed));
    if (!flags.json) console.error(`${format.name} done`);
  }
  if (flags.json) console.log(JSON.stringify(results, null, 2));
  else {
    console.log(
      "| format | inputs | past the first check | accepted | slowest | most allocated by one | peak memory grew | problems |",
    );
    console.log("|---|---:|---:|---:|---:|---:|---:|---:|");
    for (const one of results) {
      console.log(
        `| ${one.format} | ${one.inputs} | ${
          Math.round(100 * one.pastFirstCheck / one.inputs)
        } % | ${one.accepted} | ` +
          `${one.slowestMs.toFixed(0)} ms | ${(one.allocatedBytes / 2 ** 10).toFixed(0)} KiB | ` +
          `${(one.growthBytes / 2 ** 20).toFixed(0)} MiB | ${one.problems.length} |`,
      );
    }
  }
  const bad = results.filter(({ problems }) => problems.length > 0);
  if (bad.length > 0) {
    throw new Error(
      `Cannot call these formats safe (seed ${seed}):\n${
        bad.map(({ format, problems }) => `${format}\n  ${problems.slice(0, 5).join("\n  ")}`).join("\n")
      }`,
    );
  }
}

if (import.meta.main) await main(Deno.args);
