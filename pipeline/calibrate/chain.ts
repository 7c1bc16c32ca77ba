/**
 * The activations that enter each block: of the full-precision model and of the compressed one.
 *
 * @module
 */
import { dirname, join } from "node:path";
import type { Tensor } from "../../kernels/runtime/types.ts";
import type { BlockDescription } from "../model/types.ts";
import { type Activations, type ActivationSource, batchesOf, openActivations } from "./activations.ts";
import { embeddedWindows } from "./embedding.ts";
import { type BlockEngine, disposeFeeds, emptyOutputs, type Feeds, feedsFor } from "./engine.ts";
import { residentChains, staysResident } from "./resident_chains.ts";
import { hashWindows } from "./windows.ts";

/** Which model the activations are of. */
export type ChainKind = "full" | "compressed";

/** Dense weights `weight/ROLE` of a block of a chain; the caller of a chain disposes them. */
export type ChainWeights = (block: BlockDescription) => Promise<Feeds>;

/** Where a chain's files are and what runs it. */
export interface ChainOptions {
  readonly engine: BlockEngine;
  readonly windows: readonly Int32Array[];
  /** Directory of the files, see {@linkcode chainDirectory}. */
  readonly directory: string;
  /** Windows a forward run. */
  readonly batch: number;
  /** Keep the activations on the device instead of in files. Default: on a GPU, where they fit. */
  readonly resident?: boolean;
  /** Embeds the windows. Default: {@linkcode embeddedWindows}. */
  readonly embed?: (windows: readonly Int32Array[]) => ActivationSource;
  readonly signal?: AbortSignal;
}

/**
 * Where the chains of windows are: stages that are given other windows than the ones before them have chains of their own.
 *
 * @param scratch The run's directory for working state.
 */
export function chainDirectory(scratch: string, windows: readonly Int32Array[]): string {
  return join(scratch, "chain", hashWindows(windows)!.slice(0, 16));
}

/** Removes the chains of other windows, which an earlier stage left: those of all windows may need their room. */
export async function dropOtherChains({ directory, engine }: ChainOptions): Promise<void> {
  const parent = dirname(directory);
  residentChains(engine.runtime).dropWhere((name) => dirname(dirname(name)) === parent && dirname(name) !== directory);
  const entries = await Array.fromAsync(Deno.readDir(parent)).catch((error) => {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  });
  for (const { name } of entries) {
    if (join(parent, name) !== directory) await Deno.remove(join(parent, name), { recursive: true });
  }
}

function fileOf(directory: string, kind: ChainKind, block: number): string {
  return `${directory}/${kind}.${block}.f32`;
}

function shapeOf({ windows, engine }: ChainOptions) {
  return { windows: windows.length, tokens: windows[0].length, features: engine.model.hiddenSize };
}

function isResident(options: ChainOptions): boolean {
  return options.resident ?? staysResident(options.engine.runtime, shapeOf(options));
}

function openExisting(options: ChainOptions, kind: ChainKind, block: number): Activations | undefined {
  const path = fileOf(options.directory, kind, block);
  const { runtime } = options.engine;
  if (isResident(options)) return residentChains(runtime).find(path, shapeOf(options));
  try {
    return openActivations(runtime, path, shapeOf(options), { create: false });
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof RangeError) return undefined;
    throw error;
  }
}

/** Writes activations that appear whole or not at all. */
async function writeWhole(
  options: ChainOptions,
  path: string,
  fill: (activations: Activations) => Promise<void>,
): Promise<void> {
  const { runtime } = options.engine;
  if (isResident(options)) {
    const store = residentChains(runtime);
    using made = store.create(shapeOf(options));
    await fill(made);
    store.keep(path, made);
    return;
  }
  await Deno.mkdir(options.directory, { recursive: true });
  const partial = `${path}.partial`;
  {
    using file = openActivations(runtime, partial, shapeOf(options), { create: true });
    await fill(file);
  }
  await Deno.rename(partial, path);
}

/**
 * Runs a block over all windows and stores its output as the input of the next. An input that can be released is, batch by
 * batch, so that the two are not in memory together.
 *
 * @param feeds `weight/ROLE` of all linears, `norm/PLACE` and `bias/ROLE`; not disposed.
 */
export async function advanceChain(
  options: ChainOptions,
  kind: ChainKind,
  block: BlockDescription,
  input: ActivationSource,
  feeds: Feeds,
): Promise<Activations> {
  const { engine, batch, signal } = options;
  const { tokens, windows } = input;
  const next = engine.model.blocks.indexOf(block) + 1;
  const linears = new Map(block.linears.map(({ role }) => [role, "frozen" as const]));
  const graphOf = (size: number) => ({ kind: "forward", batch: size, tokens, linears }) as const;
  const batches = batchesOf(windows, batch);
  await writeWhole(options, fileOf(options.directory, kind, next), async (file) => {
    for (const indices of batches) {
      signal?.throwIfAborted();
      const session = await engine.session(block, graphOf(indices.length));
      using x: Tensor = await input.tensor(indices);
      const { y } = await session.run(feedsFor(session, feeds, { x }), { into: emptyOutputs(engine.runtime, session) });
      await file.write(indices[0], y);
      input.release?.(indices);
    }
  });
  for (const size of new Set(batches.map(({ length }) => length))) await engine.drop(block, graphOf(size));
  return openExisting(options, kind, next)!;
}

/**
 * The input of the block at position `target` (the number of blocks: the output of the model), from its file, or computed from the nearest
 * earlier block whose file is there. That of the first block is embedded whenever it is asked for.
 */
export async function openChain(
  options: ChainOptions,
  kind: ChainKind,
  target: number,
  weights: ChainWeights,
): Promise<ActivationSource> {
  const { engine } = options;
  let at = target;
  let input: ActivationSource | undefined;
  while (at > 0 && (input = openExisting(options, kind, at)) === undefined) at--;
  input ??= options.embed?.(options.windows) ??
    embeddedWindows(engine.runtime, engine.checkpoint, engine.model, options.windows);
  for (; at < target; at++) {
    const block = engine.model.blocks[at];
    const feeds = { ...await engine.vectors(block), ...await weights(block) };
    if (isResident(options)) {
      input = residentChains(engine.runtime).take(fileOf(options.directory, kind, at), shapeOf(options)) ?? input;
    }
    let next: Activations;
    try {
      next = await advanceChain(options, kind, block, input, feeds);
    } finally {
      disposeFeeds(feeds);
      input[Symbol.dispose]();
    }
    dropChain(options, kind, at);
    input = next;
  }
  return input;
}

/** Removes a block's input; nothing is stored of the first block's. */
export function dropChain(options: ChainOptions, kind: ChainKind, block: number): void {
  if (block <= 0) return;
  const path = fileOf(options.directory, kind, block);
  if (isResident(options)) return residentChains(options.engine.runtime).drop(path);
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}
