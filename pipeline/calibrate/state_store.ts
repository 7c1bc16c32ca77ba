/**
 * Latents, scales and their moments of all blocks during a distillation: on the device as far as they fit, the rest in
 * files; saved from time to time, so that an interrupted run goes on.
 *
 * @module
 */
import type { Runtime, Tensor } from "../../kernels/runtime/types.ts";
import { disposeVector, type TrainedVector } from "./adamw.ts";
import type { FactorVectors } from "./block_state.ts";

/** Where state is kept. */
export interface StateStoreOptions {
  readonly runtime: Runtime;
  /** Directory of the files; made when needed. */
  readonly directory: string;
  /** Bytes that may stay on the device. */
  readonly residentBytes: number;
  /** What the state belongs to; a saved state of something else is ignored. */
  readonly identity: string;
}

/** State by block index. */
export interface StateStore extends AsyncDisposable {
  /** Step from which a saved run goes on; 0 without one. Ask before adding blocks. */
  resume(): Promise<number>;
  /** Takes a block in: its saved state where a run is resumed, what `start` makes otherwise. */
  add(block: number, start: () => Promise<FactorVectors>): Promise<void>;
  has(block: number): boolean;
  /** The block's latents and scales, valid until {@linkcode release}. */
  parameters(block: number): Promise<{ readonly latents: Tensor; readonly scales: Tensor }>;
  release(block: number): void;
  /** The block's state for a step of the optimizer, valid until {@linkcode close}, which stores it. */
  open(block: number): Promise<FactorVectors>;
  close(block: number): Promise<void>;
  /** Saves everything as of before `step`. */
  save(step: number): Promise<void>;
  /** Removes all files. */
  finish(): Promise<void>;
}

/** Order of the vectors in a file. */
const PARTS = ["parameter", "first", "second", "rates"] as const;

/** A block's entry: resident vectors, or the lengths of those in its file. */
interface Entry {
  resident?: FactorVectors;
  opened?: FactorVectors | { readonly latents: Tensor; readonly scales: Tensor };
  readonly lengths: readonly (readonly [number, number])[];
}

const vectorsOf = (state: FactorVectors): TrainedVector[] => [state.latents, state.scales];

async function writeState(path: string, state: FactorVectors): Promise<void> {
  using file = await Deno.open(path, { write: true, create: true, truncate: true });
  const writer = file.writable.getWriter();
  for (const vector of vectorsOf(state)) {
    for (const part of PARTS) {
      const data = await vector[part].read() as Float32Array;
      await writer.write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    }
  }
  await writer.close();
}

async function readState(runtime: Runtime, path: string, lengths: Entry["lengths"]): Promise<FactorVectors> {
  const bytes = await Deno.readFile(path);
  let at = 0;
  const next = (length: number) => {
    const data = new Float32Array(bytes.buffer, at, length);
    at += 4 * length;
    return runtime.tensor("float32", data, [length]);
  };
  const [latents, scales] = lengths.map(([length, rates]): TrainedVector => ({
    parameter: next(length),
    first: next(length),
    second: next(length),
    rates: next(rates),
  }));
  return { latents, scales };
}

/** Opens an empty store. */
export function openStateStore(options: StateStoreOptions): StateStore {
  const { runtime, directory, identity } = options;
  const entries = new Map<number, Entry>();
  let resident = 0;
  let saved: string | undefined;
  const entry = (block: number): Entry => {
    const found = entries.get(block);
    if (found === undefined) throw new RangeError(`Cannot open the state of block ${block}: it was not added`);
    return found;
  };
  const working = (block: number) => `${directory}/block.${block}.f32`;
  const progress = `${directory}/progress.json`;
  const dispose = (state: FactorVectors) => vectorsOf(state).forEach(disposeVector);

  return {
    async resume() {
      try {
        const found = JSON.parse(await Deno.readTextFile(progress));
        if (found.identity !== identity) return 0;
        saved = found.directory as string;
        return found.step as number;
      } catch (error) {
        if (error instanceof Deno.errors.NotFound) return 0;
        throw error;
      }
    },
    async add(block, start) {
      let state = await start();
      const lengths = vectorsOf(state).map(({ parameter, rates }) => [parameter.shape[0], rates.shape[0]] as const);
      if (saved !== undefined) {
        dispose(state);
        state = await readState(runtime, `${directory}/${saved}/block.${block}.f32`, lengths);
      }
      const bytes = vectorsOf(state).reduce((sum, { parameter }) => sum + 3 * parameter.byteLength, 0);
      if (resident + bytes <= options.residentBytes) {
        resident += bytes;
        entries.set(block, { resident: state, lengths });
        return;
      }
      await Deno.mkdir(directory, { recursive: true });
      await writeState(working(block), state);
      dispose(state);
      entries.set(block, { lengths });
    },
    has: (block) => entries.has(block),
    async parameters(block) {
      const each = entry(block);
      if (each.resident !== undefined) {
        return { latents: each.resident.latents.parameter, scales: each.resident.scales.parameter };
      }
      using file = await Deno.open(working(block));
      const [latents, scales] = [0, 1].map((index) => {
        const [length] = each.lengths[index];
        const data = new Float32Array(length);
        const start = index === 0 ? 0 : 4 * (3 * each.lengths[0][0] + each.lengths[0][1]);
        file.seekSync(start, Deno.SeekMode.Start);
        const bytes = new Uint8Array(data.buffer);
        for (let done = 0; done < bytes.length;) {
          const count = file.readSync(bytes.subarray(done));
          if (count === null) {
            throw new Error(`Cannot read the state of block ${block}: "${working(block)}" is cut short`);
          }
          done += count;
        }
        return runtime.tensor("float32", data, [length]);
      });
      each.opened = { latents, scales };
      return each.opened;
    },
    release(block) {
      const each = entry(block);
      if (each.resident !== undefined || each.opened === undefined) return;
      const { latents, scales } = each.opened as { latents: Tensor; scales: Tensor };
      latents[Symbol.dispose]();
      scales[Symbol.dispose]();
      each.opened = undefined;
    },
    async open(block) {
      const each = entry(block);
      if (each.resident !== undefined) return each.resident;
      const state = await readState(runtime, working(block), each.lengths);
      each.opened = state;
      return state;
    },
    async close(block) {
      const each = entry(block);
      if (each.resident !== undefined || each.opened === undefined) return;
      await writeState(working(block), each.opened as FactorVectors);
      dispose(each.opened as FactorVectors);
      each.opened = undefined;
    },
    async save(step) {
      const name = `step.${step}`;
      await Deno.mkdir(`${directory}/${name}`, { recursive: true });
      for (const [block, each] of entries) {
        const path = `${directory}/${name}/block.${block}.f32`;
        if (each.resident !== undefined) await writeState(path, each.resident);
        else await Deno.copyFile(working(block), path);
      }
      await Deno.writeTextFile(`${progress}.partial`, JSON.stringify({ step, identity, directory: name }));
      await Deno.rename(`${progress}.partial`, progress);
      if (saved !== undefined && saved !== name) await Deno.remove(`${directory}/${saved}`, { recursive: true });
      saved = name;
    },
    async finish() {
      await Deno.remove(directory, { recursive: true }).catch((error) => {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
      });
    },
    [Symbol.asyncDispose]() {
      for (const each of entries.values()) if (each.resident !== undefined) dispose(each.resident);
      entries.clear();
      return Promise.resolve();
    },
  };
}
