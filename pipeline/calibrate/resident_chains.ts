/**
 * Activations that stay in the memory of a GPU from one stage to the next: through files every block would wait for
 * copies. Files are for what does not fit; a resumed run computes resident ones again.
 *
 * @module
 */
import type { Runtime, Session, Tensor } from "../../kernels/runtime/types.ts";
import { encodeModel } from "../graph/encode.ts";
import { createGraph } from "../graph/graph.ts";
import { concat, gather, slice } from "../graph/ops.ts";
import type { Graph } from "../graph/types.ts";
import type { Activations, ActivationShape } from "./activations.ts";
import { bytesFor } from "./device_memory.ts";

/** Whether activations of a shape stay on the device. */
export function staysResident(
  runtime: Pick<Runtime, "provider" | "deviceMemory">,
  { windows, tokens, features }: ActivationShape,
): boolean {
  const bytes = 4 * windows * tokens * features;
  return runtime.provider === "cuda" && bytes <= bytesFor(runtime, "one set of activations");
}

/** Resident activations by name. */
export interface ResidentChains extends AsyncDisposable {
  /** Empty activations; {@linkcode keep} makes them findable. */
  create(shape: ActivationShape): Activations;
  /** Takes activations over under a name; from now on disposing them does nothing. */
  keep(name: string, activations: Activations): void;
  /** Activations of the shape that were kept; disposing them does nothing. */
  find(name: string, shape: ActivationShape): Activations | undefined;
  /** The same, which are the caller's from now on: not found any more, and released window by window. */
  take(name: string, shape: ActivationShape): Activations | undefined;
  drop(name: string): void;
  /** Drops those whose names `others` says. */
  dropWhere(others: (name: string) => boolean): void;
}

const chains = new WeakMap<Runtime, ResidentChains>();

/** The resident activations of a runtime; disposed by the run that opened it. */
export function residentChains(runtime: Runtime): ResidentChains {
  let found = chains.get(runtime);
  if (found === undefined) chains.set(runtime, found = openResidentChains(runtime));
  return found;
}

/** A tensor as it was written, and how many windows are still wanted of it. */
interface Written {
  readonly tensor: Tensor;
  wanted: number;
}

/** One set: where each window was written. */
type StoredWindows = Map<number, { readonly written: Written; readonly row: number }>;

/** Forgets windows; a tensor is freed with its last one. */
function forget(stored: StoredWindows, windows: Iterable<number>): void {
  for (const window of windows) {
    const written = stored.get(window)?.written;
    stored.delete(window);
    if (written !== undefined && --written.wanted === 0) written.tensor[Symbol.dispose]();
  }
}

/** Rows of tensors of several windows, in the order of the inputs: `w0`, `w1` … `(any, tokens, features)` and `rows` int64. */
function buildTake(count: number, { tokens, features }: ActivationShape): Graph {
  const g = createGraph("take_windows");
  const rows = g.input("rows", "int64", [count]);
  const parts = Array.from({ length: count }, (_, at) => {
    const all = g.input(`w${at}`, "float32", [`windows${at}`, tokens, features]);
    return gather(g, all, slice(g, rows, 0, at, at + 1), 0);
  });
  g.output("all", concat(g, parts, 0));
  return g;
}

function openResidentChains(runtime: Runtime): ResidentChains {
  const sessions = new Map<string, Promise<Session>>();
  const kept = new Map<string, { readonly shape: ActivationShape; readonly stored: StoredWindows }>();
  const taking = (count: number, shape: ActivationShape) => {
    const key = JSON.stringify([count, shape.tokens, shape.features]);
    let made = sessions.get(key);
    if (made === undefined) {
      made = runtime.load(encodeModel(buildTake(count, shape)), { name: `taking ${count} windows` });
      sessions.set(key, made);
    }
    return made;
  };
  const over = (shape: ActivationShape, stored: StoredWindows, owned: boolean): Activations => ({
    ...shape,
    async tensor(indices) {
      const missing = indices.find((index) => !stored.has(index));
      if (missing !== undefined) throw new RangeError(`Cannot take window ${missing}: it was not written`);
      const found = indices.map((index) => stored.get(index)!);
      const parts = found.map(({ written: { tensor } }, at) => [`w${at}`, tensor] as const);
      using rows = runtime.tensor("int64", BigInt64Array.from(found, ({ row }) => BigInt(row)), [found.length]);
      const session = await taking(indices.length, shape);
      return (await session.run({ ...Object.fromEntries(parts), rows })).all;
    },
    // A tensor of a window alone would take up to twice its size: CUDA gives out pages of 2 MiB.
    write(first, data) {
      const written = { tensor: data, wanted: data.shape[0] };
      for (let row = 0; row < data.shape[0]; row++) {
        forget(stored, [first + row]);
        stored.set(first + row, { written, row });
      }
      return Promise.resolve();
    },
    ...(owned ? { release: (indices: readonly number[]) => forget(stored, indices) } : {}),
    [Symbol.dispose]() {
      if (owned) forget(stored, [...stored.keys()]);
    },
  });
  const created = new WeakMap<Activations, StoredWindows>();
  const drop = (name: string) => {
    const found = kept.get(name);
    if (found !== undefined) forget(found.stored, [...found.stored.keys()]);
    kept.delete(name);
  };
  const storedAs = (name: string, { windows, tokens, features }: ActivationShape) => {
    const found = kept.get(name);
    if (found === undefined || windows !== found.shape.windows || tokens !== found.shape.tokens) return undefined;
    return features === found.shape.features ? found.stored : undefined;
  };
  return {
    create(shape) {
      const stored: StoredWindows = new Map();
      const made = over(shape, stored, true);
      created.set(made, stored);
      return made;
    },
    keep(name, activations) {
      const stored = created.get(activations)!;
      const { windows: count, tokens, features } = activations;
      drop(name);
      kept.set(name, { shape: { windows: count, tokens, features }, stored: new Map(stored) });
      stored.clear();
    },
    find(name, shape) {
      const stored = storedAs(name, shape);
      return stored && over(shape, stored, false);
    },
    take(name, shape) {
      const stored = storedAs(name, shape);
      if (stored !== undefined) kept.delete(name);
      return stored && over(shape, stored, true);
    },
    drop,
    dropWhere(others) {
      for (const name of [...kept.keys()].filter(others)) drop(name);
    },
    async [Symbol.asyncDispose]() {
      for (const name of [...kept.keys()]) drop(name);
      for (const each of sessions.values()) await (await each)[Symbol.asyncDispose]();
      sessions.clear();
      chains.delete(runtime);
    },
  };
}
