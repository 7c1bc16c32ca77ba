/**
 * Going on from a finished run: its layers are taken as they are, and a distillation with new text, rates and length follows.
 *
 * @module
 */
import { join, resolve } from "node:path";
import * as v from "valibot";
import { noImportance } from "../plugins/importance/none.ts";
import { unpackFactors } from "../plugins/packing/unpack.ts";
import { sha256 } from "./artefact/durable.ts";
import { canonicalJson, checkpointIdentity, fingerprintDifferences } from "./artefact/fingerprint.ts";
import { JOURNAL_FILE, readJournal } from "./artefact/journal.ts";
import { openArtefact, type OpenedArtefact } from "./artefact/reader.ts";
import type { CheckpointReader } from "./checkpoint/types.ts";
import { type FinishedLayer, finishedLayers } from "./finished_layers.ts";
import { storedBytes } from "./plan/storage.ts";
import { sum } from "./plan/sum.ts";
import type { AnyStage } from "./recipe/plugin_loader.ts";
import { DEFAULT_METHOD, type ResolvedStages, resolveStage, resolveStages } from "./recipe/resolve.ts";
import type { Recipe } from "./recipe/schema.ts";
import { type Allocated, defineStage, type LayerStorage } from "./stream/stage.ts";

/** A recipe and its stages; where it goes on from a finished run, with what that one gives in place of their own. */
export interface ResolvedRun extends Disposable {
  /** With the blocks, bits and kept layers of the finished run. */
  readonly recipe: Recipe;
  /** With an allocation and a factorization that read the finished run, no importance and no reconstruction. */
  readonly stages: ResolvedStages;
  /**
   * Makes sure that a weight is the one that the finished run made its layer from.
   *
   * @param now Content hash of the weight.
   * @throws {Error} when it is another.
   */
  readonly checkSource: (name: string, now: string) => void;
}

/** A layer of the finished run that can be unpacked. */
type TakenLayer = FinishedLayer & { readonly storage: LayerStorage };

const NAME = "earlier-run";
const VERSION = "1.0.0";

/**
 * Resolves a recipe's stages, and opens the finished run that `recipe.from` names, which is open until the result is disposed.
 * Finished runs have no latents any more: a distillation starts all signs at one magnitude.
 *
 * @param known Built-in stages and plugins.
 * @throws {Error} when that run is not finished, is the recipe's own output, or was made from another checkpoint.
 * @throws {TypeError} when a layer of it is of a plugin's own kind, or as {@linkcode resolveStages} does.
 */
export async function resolveRun(
  recipe: Recipe,
  known: readonly AnyStage[],
  checkpoint: CheckpointReader,
): Promise<ResolvedRun> {
  const stages = resolveStages(recipe, known), { from: directory } = recipe;
  if (directory === undefined) return { recipe, stages, checkSource() {}, [Symbol.dispose]() {} };
  if (resolve(directory) === resolve(recipe.out)) {
    throw new Error(`Cannot go on from ${directory} in itself: choose another output directory`);
  }
  using stack = new DisposableStack();
  const artefact = stack.use(await openArtefact(directory));
  checkCheckpoint(directory, artefact, checkpoint);
  const { model, ...finished } = await finishedLayers(artefact);
  const layers = finished.layers.map((layer) => requireTaken(directory, layer));
  const ranked = layers.filter(({ storage }) => storage.ranked), compressed = new Set(layers.map(({ name }) => name));
  const linears = model.blocks.flatMap((block) => block.linears.map(({ weight }) => weight));
  const sources = await readSources(directory), replaced = stagesOf(stages, artefact, layers);
  const held = stack.move();
  return {
    recipe: {
      ...recipe,
      bits: ranked.length === 0
        ? undefined
        : sum(ranked, ({ storage }) => storage.codeBits) / sum(ranked, ({ rows, cols }) => rows * cols),
      blocks: artefact.manifest.blocks,
      keep: linears.filter((name) => !compressed.has(name)).map((name) =>
        `^${name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`
      ),
    },
    stages: replaced,
    checkSource(name, now) {
      const source = sources.get(name);
      if (now === source) return;
      throw new Error(
        `Cannot go on from ${directory} as checkpoint content of "${name}" was ${source} and is now ${now}: give ` +
          `the checkpoint that it was made from`,
      );
    },
    [Symbol.dispose]: () => held.dispose(),
  };
}

function checkCheckpoint(directory: string, { manifest }: OpenedArtefact, checkpoint: CheckpointReader): void {
  const [difference] = fingerprintDifferences(manifest.fingerprint.checkpoint, checkpointIdentity(checkpoint));
  if (difference === undefined) return;
  throw new Error(
    `Cannot go on from ${directory} with the checkpoint ${checkpoint.directory} as its ` +
      `${difference.field || "identity"} is another: give the checkpoint that it was made from`,
  );
}

/** Content hashes of the weights that a run's layers were made from, by name. */
async function readSources(directory: string): Promise<ReadonlyMap<string, string>> {
  const journal = await readJournal(join(directory, JOURNAL_FILE)).catch((cause) => {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw new Error(`Cannot go on from ${directory} as it has no ${JOURNAL_FILE}: copy the whole folder`, { cause });
  });
  return new Map(journal.lines.flatMap((line) => line.type === "commit" ? [[line.name, line.source] as const] : []));
}

function requireTaken(directory: string, { storage, ...layer }: FinishedLayer): TakenLayer {
  if (storage !== undefined) return { ...layer, storage };
  throw new TypeError(`Cannot go on from "${layer.name}" of ${directory}: its kind ${layer.kind} is a plugin's`);
}

/** The recipe's stages with those of the finished run in place of what made its layers. */
function stagesOf(stages: ResolvedStages, artefact: OpenedArtefact, layers: readonly TakenLayer[]): ResolvedStages {
  // What is in the layers enters the fingerprint: a folder that another run filled meanwhile is another start.
  const options = v.strictObject({ entries: v.string() });
  const choice = { use: NAME, options: { entries: sha256(canonicalJson(artefact.manifest.entries)) } };
  const storages = new Map(layers.map(({ name, storage }) => [name, storage]));
  const storageOf = (name: string): LayerStorage => {
    const storage = storages.get(name);
    if (storage === undefined) throw new RangeError(`Cannot find the layer "${name}" in ${artefact.directory}`);
    return storage;
  };
  const ranks: Allocated = new Map(
    layers.filter(({ storage }) => storage.ranked).map(({ name, rank, reason }) => [name, { rank, reason }]),
  );
  const common = { version: VERSION, options } as const;
  const allocation = defineStage({
    ...common,
    kind: "allocation",
    scope: "model",
    name: NAME,
    description: "The middle dimensions of a finished run.",
    estimate: () => ({ peakBytes: 0, flops: 0 }),
    propose: () => ({ ranks, final: true }),
    run: () => Promise.resolve(ranks),
  });
  const factorization = defineStage({
    ...common,
    kind: "factorization",
    scope: "layer",
    name: NAME,
    description: "The factors of a finished run.",
    stores: ({ name }) => storageOf(name),
    // the file, its tensors and the factors
    estimate: ({ name }) => ({ peakBytes: 3 * storedBytes(storageOf(name), 4), flops: 0 }),
    run: async ({ job: { name, rows, cols } }) => unpackFactors(name, [rows, cols], await artefact.layer(name)),
  });
  const resolved = resolveStage("factorization", choice, [factorization]);
  return {
    ...stages,
    importance: resolveStage("importance", { use: noImportance.name, options: {} }, [noImportance]),
    allocation: resolveStage("allocation", choice, [allocation]),
    factorization: resolved,
    factorizations: new Map([[DEFAULT_METHOD, resolved]]),
    candidates: new Map(),
    reconstruction: [],
  };
}
