/**
 * Latents, scales and their moments of all blocks during a distillation: on the device as far as they fit, the rest in
 * files; saved from time to time, so that an interrupted run goes on.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import * as v from "valibot";
import { sha256File, syncDirectory, writeFileDurably } from "../artefact/durable.ts";
import type { Runtime, Tensor } from "../../kernels/runtime/types.ts";
import { disposeVector, type TrainedVector } from "./adamw.ts";
import type { FactorVectors } from "./block_state.ts";
import { freeArrays, moveToTensor } from "./move_array.ts";

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

const PROGRESS_FILE = "progress.json";
const stateFile = (block: number) => `block.${block}.f32`;
const vectorsOf = (state: FactorVectors): TrainedVector[] => [state.latents, state.scales];

/** Writes a state; with `durable` it is on disk when this returns, and its SHA-256 is returned. */
async function writeState(path: string, state: FactorVectors, durable = false): Promise<string> {
  const hash = createHash("sha256");
  using file = await Deno.open(path, { write: true, create: true, truncate: true });
  for (const vector of vectorsOf(state)) {
    for (const part of PARTS) {
      const data = await vector[part].read() as Float32Array;
      const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      if (durable) hash.update(bytes);
      for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
      freeArrays([data]);
    }
  }
  if (durable) await file.sync();
  return hash.digest("hex");
}

/** Copies a state to disk for good and returns its SHA-256. */
async function copyState(from: string, to: string): Promise<string> {
  await Deno.copyFile(from, to);
  {
    using file = await Deno.open(to, { read: true, write: true });
    await file.sync();
  }
  return await sha256File(to);
}

/** What progress.json holds. */
const Progress = v.object({
  /** First step that was not done. */
  step: v.number(),
  identity: v.string(),
  directory: v.string(),
  /** SHA-256 of the blocks' files, by name. */
  files: v.record(v.string(), v.string()),
});

/** The saved progress of a run with this identity whose files are whole; `undefined` otherwise, and the run starts anew. */
async function readProgress(directory: string, identity: string): Promise<v.InferOutput<typeof Progress> | undefined> {
  const text = await Deno.readTextFile(join(directory, PROGRESS_FILE)).catch(() => "null");
  const parsed = v.safeParse(Progress, JSON.parse(text));
  if (!parsed.success || parsed.output.identity !== identity) return undefined;
  for (const [name, hash] of Object.entries(parsed.output.files)) {
    const found = await sha256File(join(directory, parsed.output.directory, name)).catch(() => undefined);
    if (found !== hash) return undefined;
  }
  return parsed.output;
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
  freeArrays([bytes]);
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
  const working = (block: number) => join(directory, stateFile(block));
  const dispose = (state: FactorVectors) => vectorsOf(state).forEach(disposeVector);

  return {
    async resume() {
      const found = await readProgress(directory, identity);
      saved = found?.directory;
      return found?.step ?? 0;
    },
    async add(block, start) {
      let state = await start();
      const lengths = vectorsOf(state).map(({ parameter, rates }) => [parameter.shape[0], rates.shape[0]] as const);
      if (saved !== undefined) {
        dispose(state);
        state = await readState(runtime, join(directory, saved, stateFile(block)), lengths);
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
        return moveToTensor(runtime, data, [length]);
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
      await Deno.mkdir(join(directory, name), { recursive: true });
      const files: Record<string, string> = {};
      for (const [block, each] of entries) {
        const path = join(directory, name, stateFile(block));
        files[stateFile(block)] = each.resident === undefined
          ? await copyState(working(block), path)
          : await writeState(path, each.resident, true);
      }
      await syncDirectory(join(directory, name));
      await writeFileDurably(
        join(directory, PROGRESS_FILE),
        JSON.stringify({ step, identity, directory: name, files } satisfies v.InferOutput<typeof Progress>),
      );
      if (saved !== undefined && saved !== name) await Deno.remove(join(directory, saved), { recursive: true });
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
