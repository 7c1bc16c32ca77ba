/**
 * Writes a target's directory in one step: it is there in full, or not at all.
 *
 * @module
 */
import { dirname } from "node:path";
import { syncDirectory, TEMPORARY_SUFFIX } from "./artefact/durable.ts";
import type { ArtefactReader } from "./artefact/types.ts";
import type { ModelDescription } from "./model/types.ts";
import type { ResolvedStage } from "./recipe/resolve.ts";
import type { StageContext } from "./stream/stage.ts";

/** What {@linkcode exportTarget} needs. */
export interface ExportTargetOptions {
  /** Committed layers, or a checkpoint viewed as one. */
  readonly source: ArtefactReader;
  readonly model: ModelDescription;
  readonly target: ResolvedStage<"target">;
  /** Directory to make. */
  readonly directory: string;
  readonly dtype: "f32" | "f16";
  readonly context: StageContext;
  /** Replace what is there. Default false. */
  readonly replace?: boolean;
}

async function isEmptyOrAbsent(directory: string): Promise<boolean> {
  try {
    for await (const _ of Deno.readDir(directory)) return false;
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return true;
    throw error;
  }
}

/**
 * Runs a target stage into a temporary directory beside `directory` and renames it into place.
 *
 * @returns Names of the files written.
 * @throws {Error} when `directory` is not empty and may not be replaced.
 */
export async function exportTarget(options: ExportTargetOptions): Promise<readonly string[]> {
  const { source, model, target, directory, dtype, context } = options;
  if (!options.replace && !await isEmptyOrAbsent(directory)) {
    throw new Error(`Cannot export to ${directory} as it is not empty: choose another directory or empty it`);
  }
  const temporary = directory.replace(/\/+$/, "") + TEMPORARY_SUFFIX;
  await Deno.remove(temporary, { recursive: true }).catch(() => {});
  await Deno.mkdir(temporary, { recursive: true });
  const start = performance.now();
  context.emit({ type: "stage-start", stage: target.stage.name, subject: directory });
  try {
    const { files } = await target.run({ source, model, directory: temporary, dtype }, context);
    context.signal.throwIfAborted();
    await Deno.remove(directory, { recursive: true }).catch((error) => {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    });
    await Deno.rename(temporary, directory);
    await syncDirectory(dirname(directory));
    context.emit({
      type: "stage-end",
      stage: target.stage.name,
      subject: directory,
      elapsedMs: performance.now() - start,
    });
    return files;
  } catch (cause) {
    await Deno.remove(temporary, { recursive: true }).catch(() => {});
    throw cause;
  }
}
