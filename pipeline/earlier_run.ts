/**
 * Going on from a finished run: its layers are taken as they are, and a distillation with new text, rates and length follows.
 *
 * @module
 */
import { join, resolve } from "node:path";
import * as v from "valibot";
import { noImportance } from "../plugins/importance/none.ts";
import { isFactorsKind, unpackFactors } from "../plugins/packing/unpack.ts";
import { readAllocation } from "./artefact/allocation_file.ts";
import { contentHash } from "./artefact/content_hash.ts";
import { describeArtefact } from "./artefact/describe.ts";
import { sha256 } from "./artefact/durable.ts";
import { canonicalJson, checkpointIdentity, fingerprintDifferences } from "./artefact/fingerprint.ts";
import { JOURNAL_FILE, readJournal } from "./artefact/journal.ts";
import { openArtefact, type OpenedArtefact } from "./artefact/reader.ts";
import type { CheckpointReader } from "./checkpoint/types.ts";
import { entryStorage, storedBytes } from "./plan/storage.ts";
import type { AnyStage } from "./recipe/plugin_loader.ts";
import { DEFAULT_METHOD, type ResolvedStages, resolveStage, resolveStages } from "./recipe/resolve.ts";
import type { Recipe } from "./recipe/schema.ts";
import { type Allocated, defineStage, type LayerShape, type LayerStorage } from "./stream/stage.ts";

/** A recipe and its stages; where it goes on from a finished run, with what that one gives in place of their own. */
export interface ResolvedRun extends Disposable {
  /** With the blocks, bits and kept layers of the finished run. */
  readonly recipe: Recipe;
  /** With an allocation and a factorization that read the finished run, no importance and no reconstruction. */
  readonly stages: ResolvedStages;
}

/** A layer of the finished run. */
interface TakenLayer extends LayerShape {
  readonly rank: number;
  readonly storage: LayerStorage;
  /** Content hash of the weight that it was made from. */
  readonly source: string;
}

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
  if (directory === undefined) return { recipe, stages, [Symbol.dispose]() {} };
  if (resolve(directory) === resolve(recipe.out)) {
    throw new Error(`Cannot go on from ${directory} in itself: choose another output directory`);
  }
  using stack = new DisposableStack();
  const artefact = stack.use(await openArtefact(directory));
  checkCheckpoint(directory, artefact, checkpoint);
  const { layers, dense } = await readLayers(artefact);
  const ranked = [...layers.values()].filter(({ storage }) => storage.ranked);
  const replaced = await stagesOf(stages, artefact, layers, checkpoint);
  const held = stack.move();
  return {
    recipe: {
      ...recipe,
      bits: ranked.length === 0
        ? undefined
        : sum(ranked, ({ storage }) => storage.codeBits) / sum(ranked, ({ rows, cols }) => rows * cols),
      blocks: artefact.manifest.blocks,
      keep: dense.map((name) => `^${name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`),
    },
    stages: replaced,
    [Symbol.dispose]: () => held.dispose(),
  };
}

function checkCheckpoint(directory: string, { manifest }: OpenedArtefact, checkpoint: CheckpointReader): void {
  const [difference] = fingerprintDifferences(manifest.fingerprint.checkpoint, checkpointIdentity(checkpoint));
  if (difference === undefined) return;
  throw new Error(
    `Cannot go on from ${directory} with the checkpoint ${checkpoint.directory} as its ${
      difference.field || "identity"
    } ` +
      `is another: give the checkpoint that it was made from`,
  );
}

/** The compressed layers of a run, by weight name, and the names of linears that it kept dense. */
async function readLayers(artefact: OpenedArtefact) {
  const { directory, entries } = artefact;
  const sources = new Map<string, string>();
  const journal = await readJournal(join(directory, JOURNAL_FILE)).catch((cause) => {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw new Error(`Cannot go on from ${directory} as it has no ${JOURNAL_FILE}: copy the whole folder`, { cause });
  });
  for (const line of journal.lines) {
    if (line.type === "commit") sources.set(line.name, line.source);
  }
  const layers = new Map<string, TakenLayer>();
  const dense: string[] = [];
  const { blocks } = await describeArtefact(artefact);
  for (const { index: block, linears } of blocks) {
    for (const { role, weight: name, rows, cols } of linears) {
      const entry = entries.get(name), source = sources.get(name);
      if (entry === undefined || source === undefined) {
        throw new Error(`Cannot go on from ${directory} as it has no layer "${name}": copy the whole folder`);
      }
      const storage = entryStorage(entry);
      if (entry.kind === "dense") dense.push(name);
      else if (storage === undefined || !isFactorsKind(entry.kind)) {
        throw new TypeError(`Cannot go on from "${name}" of ${directory}: its kind ${entry.kind} is a plugin's`);
      } else {
        const { rank } = entry.attributes;
        layers.set(name, {
          name,
          block,
          role,
          rows,
          cols,
          rank: typeof rank === "number" ? rank : 0,
          storage,
          source,
        });
      }
    }
  }
  return { layers, dense };
}

/** The recipe's stages with those of the finished run in place of what made its layers. */
async function stagesOf(
  stages: ResolvedStages,
  artefact: OpenedArtefact,
  layers: ReadonlyMap<string, TakenLayer>,
  checkpoint: CheckpointReader,
): Promise<ResolvedStages> {
  const { directory, manifest } = artefact;
  // What is in the layers enters the fingerprint: a folder that another run filled meanwhile is another start.
  const options = v.strictObject({ entries: v.string() });
  const choice = { use: NAME, options: { entries: sha256(canonicalJson(manifest.entries)) } };
  const taken = (name: string): TakenLayer => {
    const layer = layers.get(name);
    if (layer === undefined) throw new RangeError(`Cannot find the layer "${name}" in ${directory}`);
    return layer;
  };
  const reasons = (await readAllocation(directory))?.layers;
  const ranks: Allocated = new Map(
    [...layers.values()].filter(({ storage }) => storage.ranked).map(({ name, rank }) => {
      const known = reasons?.get(name);
      return [name, { rank, reason: known?.rank === rank ? known.reason : "as committed" }];
    }),
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
    stores: ({ name }) => taken(name).storage,
    // the file, its tensors and the factors
    estimate: ({ name }) => ({ peakBytes: 3 * storedBytes(taken(name).storage, 4), flops: 0 }),
    async run({ job: { name, rows, cols } }, _, { signal }) {
      const now = await contentHash(checkpoint, name, signal);
      const { source } = taken(name);
      if (now !== source) {
        throw new Error(
          `Cannot go on from ${directory} as checkpoint content of "${name}" was ${source} and is now ${now}: give ` +
            `the checkpoint that it was made from`,
        );
      }
      return unpackFactors(name, [rows, cols], await artefact.layer(name));
    },
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

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}
