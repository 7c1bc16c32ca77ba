/**
 * Middle dimensions of a run's layers: what its allocation stage may spend, what it says before it measures, and its run.
 *
 * @module
 */
import { allocationIdentity, readAllocation, writeAllocation } from "./artefact/allocation_file.ts";
import { checkpointIdentity } from "./artefact/fingerprint.ts";
import type { ArtefactWriter } from "./artefact/writer.ts";
import type { CheckpointReader } from "./checkpoint/types.ts";
import { byteBudget, signBitBudget } from "./plan/allocation_budget.ts";
import { compileFilter, type Inventory } from "./plan/inventory.ts";
import { bitsForSize, DENSE_BYTES, exportedBytes, fewestBits, sizeTooSmall, storageAt } from "./plan/sizes.ts";
import { methodOf, type ResolvedStages, storageOfRun } from "./recipe/resolve.ts";
import type { Recipe } from "./recipe/schema.ts";
import { tensorSeed } from "./stream/seed.ts";
import type {
  Allocated,
  AllocatedLayer,
  AllocationBudget,
  Candidate,
  LayerImportance,
  LayerShape,
  LayerStorage,
  Proposal,
  StageContext,
  StageIO,
} from "./stream/stage.ts";

/** Sign bits per weight that are used where a recipe gives neither bits nor size. */
export const DEFAULT_BITS_PER_WEIGHT = 2;

/** Allocations in a row that approach a size from above, by stages that heed only the bits. */
const MOST_ALLOCATIONS = 4;

/** What an allocation of a run is asked for. */
export interface AllocationTask {
  /** Layers whose size a middle dimension decides. */
  readonly layers: readonly LayerShape[];
  readonly bitsPerWeight: number;
  readonly budget: AllocationBudget;
  /** Layers that a method of the recipe makes, whose size is given. */
  readonly fixed: Allocated;
}

/**
 * What a recipe's bits or size leave for its layers.
 *
 * @throws {RangeError} when a size cannot be reached, naming the smallest that can.
 * @throws {TypeError} when there are candidates and no size, or an allocation that doesn't choose among them.
 */
export function allocationTask(
  recipe: Pick<Recipe, "bits" | "size" | "dtype">,
  { layers, dense, model }: Inventory,
  stages: ResolvedStages,
): AllocationTask {
  checkCandidates(recipe, stages);
  const storageOf = storageOfRun(stages), blocks = model.blocks.length, { size, dtype } = recipe;
  const ranked = layers.filter((layer) => storageOf(layer, 1).ranked);
  const others = layers.filter((layer) => !storageOf(layer, 1).ranked);
  const bitsPerWeight = size === undefined ? recipe.bits ?? DEFAULT_BITS_PER_WEIGHT : meanFor(size);
  function meanFor(size: number): number {
    const sizeWith = (of: (layer: LayerShape) => LayerStorage) =>
      exportedBytes(layers, layers.map(of), dense, blocks, dtype);
    const smallest = sizeWith((layer) => storageOf(layer, 1));
    if (layers.length > 0 && smallest > size) throw sizeTooSmall(size, smallest, dtype);
    // Equal bits may need more than middle dimensions of 1.
    const fewest = fewestBits(layers, storageOf);
    if (ranked.length > 0 && sizeWith((layer) => storageAt(layer, fewest, storageOf)) > size) return fewest;
    return bitsForSize(size, layers, dense, blocks, dtype, storageOf);
  }
  const otherBytes = exportedBytes(others, others.map((layer) => storageOf(layer, 0)), dense, blocks, dtype);
  return {
    layers: ranked,
    bitsPerWeight,
    budget: size === undefined
      ? signBitBudget(ranked, bitsPerWeight)
      : byteBudget(size, otherBytes, DENSE_BYTES[dtype]),
    fixed: new Map(others.map(({ name }) => {
      const { stage } = stages.factorizations.get(methodOf(stages, name))!;
      return [name, { rank: 0, reason: stage.name }];
    })),
  };
}

function checkCandidates({ size }: Pick<Recipe, "size">, { allocation, candidates }: ResolvedStages): void {
  if (candidates.size === 0) return;
  const names = [...candidates.keys()].join(", ");
  if (allocation.stage.choosesCandidates !== true) {
    throw new TypeError(
      `Cannot use candidates (${names}) with allocation ${allocation.stage.name}, which doesn't choose among them: use measured`,
    );
  }
  if (size === undefined) {
    throw new TypeError(`Cannot use candidates (${names}) with bits, as kinds are compared by bytes: give --size`);
  }
}

/**
 * What the allocation stage says without measuring; `undefined` where it says nothing.
 *
 * @throws {RangeError} for a budget or options that cannot be met.
 */
export function proposeAllocation(task: AllocationTask, stages: ResolvedStages): Proposal | undefined {
  if (task.layers.length === 0) return { ranks: task.fixed, final: true };
  const proposal = stages.allocation.propose(task);
  return proposal && { ...proposal, ranks: new Map([...proposal.ranks, ...task.fixed]) };
}

/** What {@linkcode allocate} needs. */
export interface AllocationRun {
  readonly task: AllocationTask;
  /** Of what decides the result, see {@linkcode identityOf}. */
  readonly identity: string;
  readonly stages: ResolvedStages;
  readonly checkpoint: Pick<CheckpointReader, "tensor">;
  readonly importance: ReadonlyMap<string, LayerImportance>;
  readonly seed: number;
  readonly offer: StageIO["allocation"]["input"]["offer"];
  readonly writer: Pick<ArtefactWriter, "directory" | "loadState" | "saveState" | "committed">;
  readonly context: StageContext;
  /** Runs the body with the bytes that the stage asks for reserved, and with its events. */
  readonly inStage: (body: () => Promise<Allocated>) => Promise<Allocated>;
}

const STATE = "allocation";

/**
 * Runs the allocation stage, unless the writer's working state has what it found.
 *
 * @throws {RangeError} when its result is not a middle dimension for every layer, or is above the budget.
 */
export async function allocate(run: AllocationRun): Promise<Allocated> {
  const { task, stages, checkpoint, importance, writer, context } = run, { allocation } = stages;
  const { layers, fixed, budget } = task;
  if (layers.length === 0) return fixed;
  const saved = await writer.loadState(STATE);
  if (saved !== undefined) return new Map(JSON.parse(new TextDecoder().decode(saved)));
  const finished = layers.every(({ name }) => writer.committed.has(name));
  if (finished) {
    const kept = await committedAllocation(run);
    if (kept !== undefined) return kept;
  }
  const candidates = candidatesOf(run);
  const elements = layers.reduce((total, { rows, cols }) => total + rows * cols, 0);
  let ranks: Allocated = new Map();
  let over = Infinity;
  for (let tries = 0, { bitsPerWeight } = task; tries < MOST_ALLOCATIONS && over > 0; tries++) {
    const input = {
      layers,
      bitsPerWeight,
      budget,
      importance,
      weight: (name: string) => checkpoint.tensor(name),
      seed: run.seed,
      candidates,
      offer: run.offer,
    };
    ranks = await run.inStage(() => allocation.run(input, context));
    for (const { name } of layers) checkAllocated(allocation.stage.name, name, ranks.get(name), stages.candidates);
    // A mean of bits is for the stage to keep; a size must not be exceeded by one that heeds only bits.
    if (budget.unit === "sign bits") break;
    over = layers.reduce((total, layer) => {
      const { rank, method } = ranks.get(layer.name)!;
      const cost = method === undefined
        ? budget.cost(layer, rank)
        : budget.costOf(candidates.get(method)!.stores(layer)!);
      return total + cost;
    }, -budget.total);
    bitsPerWeight -= 8 * over / elements * (1 + tries);
  }
  if (budget.unit === "bytes" && over > 0) {
    throw new RangeError(
      `Cannot use allocation ${allocation.stage.name} as its middle dimensions need ${over} bytes more than --size leaves`,
    );
  }
  const all: Allocated = new Map([...ranks, ...fixed]);
  // A finished run that is asked for again stays as it is, byte for byte.
  if (!finished) {
    // The file first: a run that finds the state does not come here again.
    await writeAllocation(writer.directory, {
      stage: allocation.stage.name,
      bitsPerWeight: task.bitsPerWeight,
      identity: run.identity,
      layers: all,
    });
    await writer.saveState(STATE, new TextEncoder().encode(JSON.stringify([...all])));
  }
  return all;
}

/** What the output directory says of a finished run, where it fits the layers that were committed. */
async function committedAllocation({ task, identity, writer }: AllocationRun): Promise<Allocated | undefined> {
  const kept = await readAllocation(writer.directory);
  if (kept === undefined || kept.identity !== identity) return undefined;
  const fits = task.layers.every(({ name }) =>
    kept.layers.get(name)?.rank === (writer.committed.get(name)!.attributes.rank ?? 0)
  );
  return fits ? kept.layers : undefined;
}

/** Hash of what decides an allocation, known without reading a weight or the calibration text. */
export function identityOf(
  recipe: Recipe,
  checkpoint: CheckpointReader,
  { importance, allocation, factorizations, candidates }: ResolvedStages,
): string {
  const { bits, size, dtype, keep, blocks, calibration, seed, provider } = recipe;
  return allocationIdentity({
    checkpoint: checkpointIdentity(checkpoint),
    recipe: { bits, size, dtype, keep, blocks, calibration, seed, provider },
    stages: [importance, allocation].map(({ identity }) => identity),
    methods: [...factorizations].map(([pattern, { identity }]) => [pattern, identity.name, identity.version]),
    candidates: [...candidates].map(([name, { identity }]) => [name, identity]),
  });
}

function checkAllocated(
  stage: string,
  name: string,
  found: AllocatedLayer | undefined,
  candidates: ResolvedStages["candidates"],
): void {
  if (found?.method !== undefined && candidates.has(found.method)) return;
  if (found !== undefined && found.method === undefined && Number.isInteger(found.rank) && found.rank >= 1) return;
  throw new RangeError(
    `Cannot use allocation ${stage} for "${name}": its rank must be a whole number ≥ 1, or its method a candidate's name; ` +
      `current value is ${found?.method ?? found?.rank}`,
  );
}

/** The recipe's candidates, bound to the run. */
function candidatesOf(
  { stages, checkpoint, importance, seed, offer, context }: AllocationRun,
): ReadonlyMap<string, Candidate> {
  return new Map([...stages.candidates].map(([method, stage]) => {
    const accepts = compileFilter(stage.stage.filter ?? {});
    const candidate: Candidate = {
      identity: stage.identity,
      stores: (layer) => accepts(layer) ? stage.stores({ ...layer, rank: 0 }) : undefined,
      async make(layer) {
        const job = { ...layer, rank: 0, method, seed: tensorSeed(seed, layer.name) };
        const weight = checkpoint.tensor(layer.name);
        const factors = await stage.run({ job, weight, importance: importance.get(layer.name) }, {
          ...context,
          emit: () => {},
        });
        offer({ stage: stage.stage, options: stage.options, job, factors });
        return factors;
      },
    };
    return [method, candidate];
  }));
}
