/**
 * Importance that other runs left in a directory: bits, factorization and tuning do not change it, and it is the longest
 * computation of runs without training.
 *
 * @module
 */
import { join } from "node:path";
import { contentHashes } from "./artefact/content_hash.ts";
import { readFileIfThere, sha256, writeFileDurably } from "./artefact/durable.ts";
import { canonicalJson, type Fingerprint } from "./artefact/fingerprint.ts";
import { hashWindows } from "./calibrate/windows.ts";
import type { CheckpointReader } from "./checkpoint/types.ts";
import { decodeImportance, encodeImportance } from "./compress_state.ts";
import type { LayerImportance, StageContext } from "./stream/stage.ts";

/** What importance depends on: the fields of the run's fingerprint that matter to it, and the content of all tensors. */
async function importanceKey(
  checkpoint: CheckpointReader,
  { dbf, checkpoint: headers, recipe, stages, ...machine }: Fingerprint,
  calibration: readonly Int32Array[],
  signal: AbortSignal,
): Promise<string> {
  const { provider, onnxruntime, threads, instructionSet } = machine;
  const contents = await contentHashes(checkpoint, signal);
  const { importance } = stages, { blocks } = recipe;
  const all = {
    dbf,
    headers,
    contents,
    blocks,
    importance,
    calibration: hashWindows(calibration),
    provider,
    onnxruntime,
    threads,
    instructionSet,
  };
  return sha256(canonicalJson(all));
}

/**
 * Importance from `directory`, where a run with an equal fingerprint of importance left it; computed and left there
 * otherwise. The whole checkpoint is read once, to make sure that it is the same.
 *
 * @param directory Made where it does not exist; `undefined` computes.
 */
export async function cachedImportance(
  directory: string | undefined,
  run: {
    readonly checkpoint: CheckpointReader;
    readonly fingerprint: Fingerprint;
    /** Windows that the importance stage is given. */
    readonly calibration: readonly Int32Array[];
    readonly context: StageContext;
  },
  compute: () => Promise<ReadonlyMap<string, LayerImportance>>,
): Promise<ReadonlyMap<string, LayerImportance>> {
  if (directory === undefined) return await compute();
  const { checkpoint, fingerprint, calibration, context } = run;
  const key = await importanceKey(checkpoint, fingerprint, calibration, context.signal);
  const path = join(directory, `importance-${key.slice(0, 32)}`);
  const kept = await readFileIfThere(path);
  if (kept !== undefined) {
    context.emit({ type: "notice", message: `importance of an earlier run is used: ${path}` });
    return decodeImportance(kept);
  }
  const scores = await compute();
  await Deno.mkdir(directory, { recursive: true });
  if (scores.size > 0) await writeFileDurably(path, encodeImportance(scores));
  return scores;
}
