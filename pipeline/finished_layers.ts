/**
 * The compressed layers of a finished run: their sizes, why they have them, and what they are stored as.
 *
 * @module
 */
import { type KeptAllocation, readAllocation } from "./artefact/allocation_file.ts";
import { describeArtefact } from "./artefact/describe.ts";
import type { OpenedArtefact } from "./artefact/reader.ts";
import type { ModelDescription } from "./model/types.ts";
import { entryStorage } from "./plan/storage.ts";
import type { LayerShape, LayerStorage } from "./stream/stage.ts";

/** A layer as the run committed it. */
export interface FinishedLayer extends LayerShape {
  /** Middle dimension; 0 for kinds without one. */
  readonly rank: number;
  /** Why, as the allocation said. */
  readonly reason: string;
  readonly kind: string;
  /** `undefined` for a plugin's own kind. */
  readonly storage: LayerStorage | undefined;
}

/** What a finished run made. */
export interface FinishedLayers {
  readonly model: ModelDescription;
  /** In the order of the blocks; what was kept dense is not among them. */
  readonly layers: readonly FinishedLayer[];
  readonly allocation: KeptAllocation | undefined;
}

/**
 * Reads what a finished run says of its layers.
 *
 * @throws {Error} when a linear of its model is not in the manifest.
 * @throws {TypeError} when its allocation.json or config.json is wrong.
 */
export async function finishedLayers(artefact: OpenedArtefact): Promise<FinishedLayers> {
  const { directory, entries } = artefact;
  const model = await describeArtefact(artefact), allocation = await readAllocation(directory);
  const layers = model.blocks.flatMap(({ index: block, linears }) =>
    linears.flatMap(({ role, weight: name, rows, cols }): FinishedLayer[] => {
      const entry = entries.get(name);
      if (entry === undefined) {
        throw new Error(`Cannot use ${directory} as it has no layer "${name}": copy the whole folder`);
      }
      if (entry.kind === "dense") return [];
      const rank = typeof entry.attributes.rank === "number" ? entry.attributes.rank : 0;
      const known = allocation?.layers.get(name);
      const reason = known?.rank === rank ? known.reason : "as committed";
      return [{ name, block, role, rows, cols, rank, reason, kind: entry.kind, storage: entryStorage(entry) }];
    })
  );
  return { model, layers, allocation };
}
