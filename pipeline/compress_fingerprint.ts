/**
 * The fingerprint of a compression.
 *
 * @module
 */
import { processorFlags } from "../kernels/runtime/processor_flags.ts";
import { sessionThreads } from "../kernels/runtime/session_threads.ts";
import type { Runtime } from "../kernels/runtime/types.ts";
import { checkpointIdentity, type Fingerprint } from "./artefact/fingerprint.ts";
import { hashWindows } from "./calibrate/windows.ts";
import type { CheckpointReader } from "./checkpoint/types.ts";
import type { ResolvedStages } from "./recipe/resolve.ts";
import type { Recipe } from "./recipe/schema.ts";

/** Version of dbf; raise it when results change for reasons that no other field of the fingerprint shows. */
export const DBF_VERSION = "0.1.0";

/** Instruction sets on which ONNX Runtime's CPU kernels choose other code, and so other rounding. */
const RELEVANT_FLAGS = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimddp", "i8mm", "sve"];

/** Processor architecture with those of its instruction sets that change results; the architecture alone where it is not told. */
export function instructionSet(): string {
  const flags = processorFlags();
  return [Deno.build.arch as string, ...RELEVANT_FLAGS.filter((flag) => flags.has(flag))].join("+");
}

/** What of a run computes, as far as results depend on it. */
export function machineFields(
  recipe: Pick<Recipe, "threads">,
  runtime: Runtime,
): Pick<Fingerprint, "provider" | "onnxruntime" | "threads" | "instructionSet"> {
  return {
    provider: runtime.provider,
    onnxruntime: `${runtime.version} (${runtime.binding})`,
    threads: sessionThreads(runtime.provider, recipe.threads, undefined) ?? navigator.hardwareConcurrency,
    instructionSet: [
      instructionSet(),
      runtime.nativeKernels?.isa ?? "portable",
      ...runtime.nativeKernels?.operators ?? [],
    ].join(" "),
  };
}

/** Gathers everything that decides the bytes of the artefact and the exported model. */
export function makeFingerprint(parts: {
  readonly checkpoint: CheckpointReader;
  readonly recipe: Recipe;
  readonly bitsPerWeight: number;
  readonly stages: ResolvedStages;
  /** Windows of the calibration text. */
  readonly calibration: readonly Int32Array[];
  /** Key of the model's own text, where there is to be some. */
  readonly ownText: string | undefined;
  readonly runtime: Runtime;
}): Fingerprint {
  const { checkpoint, recipe, bitsPerWeight, stages, calibration, ownText, runtime } = parts;
  const tables = {
    ...(recipe.embedding === undefined ? {} : { embedding: recipe.embedding }),
    ...(recipe.head === undefined ? {} : { head: recipe.head }),
  };
  return {
    dbf: DBF_VERSION,
    checkpoint: checkpointIdentity(checkpoint),
    recipe: {
      bits: bitsPerWeight,
      ...(recipe.size === undefined ? {} : { size: recipe.size }),
      keep: recipe.keep,
      blocks: recipe.blocks ?? null,
      dtype: recipe.dtype,
      ...tables,
    },
    stages: {
      importance: stages.importance.identity,
      allocation: stages.allocation.identity,
      factorization: stages.factorization.identity,
      ...(Object.keys(recipe.methods).length === 0 ? {} : {
        methods: Object.keys(recipe.methods).map((pattern) => ({
          pattern,
          ...stages.factorizations.get(pattern)!.identity,
        })),
      }),
      ...(stages.candidates.size === 0 ? {} : {
        candidates: [...stages.candidates].map(([candidate, { identity }]) => ({ candidate, ...identity })),
      }),
      reconstruction: stages.reconstruction.map(({ identity }) => identity),
      packing: stages.packing.identity,
      ...(stages.distillation === undefined ? {} : { distillation: stages.distillation.identity }),
      target: stages.target.identity,
    },
    calibration: hashWindows(calibration),
    ...(ownText === undefined ? {} : { ownText }),
    seed: recipe.seed,
    ...machineFields(recipe, runtime),
  };
}
