/**
 * The decoder that an artefact holds.
 *
 * @module
 */
import { basename, dirname } from "node:path";
import { openFolder, readJsonObject } from "../checkpoint/folder.ts";
import { describeModel, truncateBlocks } from "../model/describe.ts";
import type { ModelDescription } from "../model/types.ts";
import type { ManifestContent } from "./manifest.ts";
import type { ArtefactReader } from "./types.ts";

/**
 * Describes the decoder of an artefact, or of a checkpoint viewed as one; only the blocks that the run took.
 *
 * @throws {TypeError} when config.json describes no supported decoder.
 */
export async function describeArtefact(
  source: ArtefactReader & { readonly manifest?: Pick<ManifestContent, "blocks"> },
): Promise<ModelDescription> {
  const generation = source.companions.find((path) => basename(path) === "generation_config.json");
  const generationConfig = generation === undefined
    ? undefined
    : await readJsonObject(await openFolder(dirname(generation)), basename(generation));
  const model = describeModel(source.config, source.entries, generationConfig);
  const blocks = source.manifest?.blocks;
  return blocks === undefined ? model : truncateBlocks(model, blocks);
}
