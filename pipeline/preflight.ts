/**
 * What would stop a run, found before it starts.
 *
 * @module
 */
import { statfs } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { staysResident } from "./calibrate/resident_chains.ts";
import { windowsWithin } from "./calibrate/windows.ts";
import { deviceMemoryOf } from "../kernels/runtime/device_memory.ts";
import type { Runtime } from "../kernels/runtime/types.ts";
import { probeModel } from "../kernels/runtime/c_api/probe_model.ts";
import { generatedByDefault } from "./compress_calibration.ts";
import type { CheckpointReader } from "./checkpoint/types.ts";
import { type AllocationTask, proposeAllocation } from "./compress_allocation.ts";
import { formatBytes } from "./cli/units.ts";
import { loadTokenizer } from "./evaluate/tokenizer.ts";
import type { Inventory } from "./plan/inventory.ts";
import { SELF_CALIBRATION } from "./compress_calibration.ts";
import { type PlanInput, planRun } from "./plan/plan.ts";
import type { PlanReport } from "./plan/types.ts";
import { STAGE_SCOPES } from "./stream/stage.ts";
import { plannedStages, type ResolvedStages, storageOfRun } from "./recipe/resolve.ts";
import type { Recipe } from "./recipe/schema.ts";

/** What a recipe says to the planner, but for bits or size. */
export function planInput(
  recipe: Recipe,
  chosen: Inventory,
  stages: ResolvedStages,
): Omit<PlanInput, "bitsPerWeight" | "sizeBytes"> {
  const { sequences = 0, length = 0, generated = generatedByDefault(recipe.effort, sequences) } = recipe.calibration ??
    {};
  const windows = sequences + generated, calibrationTokens = windows * length;
  const device = { provider: recipe.provider, deviceMemory: deviceMemoryOf(recipe.provider, recipe.deviceMemory) };
  /** Tokens of a stage that takes at most `most` whose activations are in files. */
  const inFiles = (most: number): number => {
    if (windows === 0 || most === 0) return 0;
    const shape = { windows: windowsWithin(windows, length, most), tokens: length, features: chosen.model.hiddenSize };
    return staysResident(device, shape) ? 0 : shape.windows * length;
  };
  return {
    inventory: chosen,
    storageOf: storageOfRun(stages),
    stages: plannedStages(stages),
    dtype: recipe.dtype,
    parallelJobs: recipe.parallel,
    memoryBytes: recipe.memory,
    deviceMemory: device.deviceMemory,
    calibration: { windows, tokens: length },
    scratch: {
      calibrationTokens,
      blockTokens: Math.max(0, ...stages.reconstruction.map((stage) => inFiles(stage.calibrationTokens))),
      teacherTokens: inFiles(
        stages.distillation?.keptTokens({ windows, tokens: length, features: chosen.model.hiddenSize }, device) ?? 0,
      ),
      distillation: stages.distillation !== undefined,
    },
  };
}

/** What is known of a run before it starts. */
export interface PreflightInput {
  readonly recipe: Recipe;
  /** Absolute output directory; need not exist. */
  readonly out: string;
  readonly checkpoint: Pick<CheckpointReader, "directory" | "companions">;
  readonly chosen: Inventory;
  readonly stages: ResolvedStages;
  readonly task: AllocationTask;
}

/** What the machine has; tests give their own. */
export interface Machine {
  /** Free bytes of the file system that holds `directory`. */
  freeDiskBytes(directory: string): Promise<number>;
  /** Bytes that processes can still take. */
  availableMemoryBytes(): number;
}

/** The machine that this process runs on. */
export const thisMachine: Machine = {
  async freeDiskBytes(directory) {
    const { bavail, bsize } = await statfs(directory);
    return bavail * bsize;
  },
  availableMemoryBytes() {
    const { available, swapFree } = Deno.systemMemoryInfo();
    return available + swapFree;
  },
};

/**
 * Checks output directory, disk space, memory, calibration text and tokenizer.
 *
 * @returns Every problem found, each with a way out; empty when the run can start.
 * @throws {RangeError} when the allocation cannot meet the budget with its options.
 */
export async function findProblems(input: PreflightInput, machine: Machine = thisMachine): Promise<string[]> {
  const { recipe, out, checkpoint, chosen, stages, task } = input;
  const plan = planRun({
    ...planInput(recipe, chosen, stages),
    bitsPerWeight: task.bitsPerWeight,
    ranks: proposeAllocation(task, stages)?.ranks,
  });
  const problems: string[] = [];

  const place = await nearestDirectory(out);
  const unwritable = await whyUnwritable(place);
  if (unwritable !== undefined) {
    problems.push(`cannot write to ${place} (${unwritable}): choose another output directory`);
  }

  const needed = plan.diskBytes - await bytesIn(out);
  const free = await machine.freeDiskBytes(place);
  if (needed > free) {
    problems.push(
      `${formatBytes(needed)} of disk are needed for artefact, export and working state, and ${place} has ${
        formatBytes(free)
      } free: ` +
        `make room, or choose another output directory`,
    );
  }

  problems.push(...memoryProblems(plan, recipe, machine.availableMemoryBytes()));
  if (recipe.calibration !== undefined && recipe.calibration.source !== SELF_CALIBRATION) {
    const { source } = recipe.calibration;
    const found = await Deno.stat(source).catch(() => undefined);
    if (!found?.isFile) {
      problems.push(`there is no calibration text "${source}": name a file, or "${SELF_CALIBRATION}"`);
    }
  }

  if (checkpoint.companions.some((path) => basename(path) === "tokenizer.json")) {
    try {
      await loadTokenizer(checkpoint.directory);
    } catch (error) {
      problems.push(`${(error as Error).message}: replace the file, or remove it to make a model without a tokenizer`);
    }
  }
  return problems;
}

/** What does not fit: the largest layer, or a stage that holds a block or the model's state, in the lease or the machine. */
function memoryProblems(plan: PlanReport, recipe: Recipe, available: number): string[] {
  const largest = plan.layers.reduce<PlanReport["layers"][number] | undefined>(
    (most, layer) => layer.peakBytes > (most?.peakBytes ?? 0) ? layer : most,
    undefined,
  );
  if (largest === undefined) return [];
  const needs = [{
    what: `"${largest.name}"`,
    bytes: largest.peakBytes,
    instead: `keep it dense with --keep '${largest.role}'`,
  }];
  for (const { kind, name, peakBytes, whole } of plan.stages) {
    const scope = STAGE_SCOPES[kind];
    if (scope === "layer" || kind === "target") continue;
    const within = scope === "block" && !whole ? largest.peakBytes : 0;
    needs.push({ what: `the stage ${name}`, bytes: peakBytes + within, instead: `choose another ${kind}` });
  }
  return needs.flatMap(({ what, bytes, instead }) => {
    const peak = formatBytes(bytes);
    return [
      ...(bytes <= recipe.memory ? [] : [
        `${what} needs ${peak} at once, and --memory allows ${formatBytes(recipe.memory)}: raise it, or ${instead}`,
      ]),
      ...(bytes <= available ? [] : [
        `${what} needs ${peak} at once, and this machine has ${
          formatBytes(available)
        } left: end other programs, or ${instead}`,
      ]),
    ];
  });
}

/**
 * Makes sure that the operator library that was found can be used: one of another version or machine fails when the first
 * graph is loaded, which may be hours into a run.
 */
export async function findKernelProblems(runtime: Pick<Runtime, "load" | "nativeKernels">): Promise<string[]> {
  if (runtime.nativeKernels === undefined) return [];
  try {
    await using _session = await runtime.load(probeModel(), { name: "probe of the operator library" });
    return [];
  } catch (error) {
    return [
      `the operator library ${runtime.nativeKernels.path} cannot be used (${
        (error as Error).message
      }): build it again ` +
      `with "deno task kernels", or remove it to run without`,
    ];
  }
}

/**
 * One error for all problems.
 *
 * @throws {Error} when there are any.
 */
export function refuseProblems(problems: readonly string[]): void {
  if (problems.length === 0) return;
  const count = problems.length === 1 ? "this" : `these ${problems.length} problems`;
  throw new Error(`Cannot start because of ${count}:\n${problems.map((problem) => `  - ${problem}`).join("\n")}`);
}

/** The directory itself, or the nearest one above it that exists. */
async function nearestDirectory(path: string): Promise<string> {
  for (let place = path;; place = dirname(place)) {
    const stat = await Deno.stat(place).catch((cause) => {
      if (!(cause instanceof Deno.errors.NotCapable)) return undefined;
      throw new Error(`Cannot check ${path} as it does not exist and Deno may not read ${place}: create it first`, {
        cause,
      });
    });
    if (stat !== undefined || place === dirname(place)) return place;
  }
}

async function whyUnwritable(directory: string): Promise<string | undefined> {
  try {
    await Deno.remove(await Deno.makeTempFile({ dir: directory, prefix: ".dbf-", suffix: ".tmp" }));
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

/** Bytes of the files that an earlier run left, which need no room again. */
async function bytesIn(directory: string): Promise<number> {
  let bytes = 0;
  const entries = await Array.fromAsync(Deno.readDir(directory)).catch(() => []);
  for (const { name, isDirectory, isFile } of entries) {
    const path = join(directory, name);
    if (isDirectory) bytes += await bytesIn(path);
    else if (isFile) bytes += (await Deno.stat(path)).size;
  }
  return bytes;
}
