/**
 * Activations that stay in the memory of a GPU from one stage to the next: through files every block would wait for
 * copies. Files are for what does not fit; a resumed run computes resident ones again.
 *
 * @module
 */
import type { Runtime, Session, Tensor } from "../../kernels/runtime/types.ts";
import { encodeModel } from "../graph/encode.ts";
import { createGraph } from "../graph/graph.ts";
import { concat, split } from "../graph/ops.ts";
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

function openResidentChains(runtime: Runtime): ResidentChains {
  const sessions = new Map<string, Promise<Session>>();
  const kept = new Map<string, { readonly shape: ActivationShape; readonly windows: Map<number, Tensor> }>();
  const session = (kind: "join" | "cut", count: number, { tokens, features }: ActivationShape) => {
    const key = JSON.stringify([kind, count, tokens, features]);
    let made = sessions.get(key);
    if (made === undefined) {
      const g = createGraph(`${kind}_windows`);
      if (kind === "join") {
        const parts = Array.from({ length: count }, (_, at) => g.input(`w${at}`, "float32", [1, tokens, features]));
        g.output("all", concat(g, parts, 0));
      } else {
        const all = g.input("all", "float32", [count, tokens, features]);
        split(g, all, 0, Array<number>(count).fill(1)).forEach((part, at) => g.output(`w${at}`, part));
      }
      sessions.set(key, made = runtime.load(encodeModel(g), { name: `${kind} ${count} windows` }));
    }
    return made;
  };
  const over = (shape: ActivationShape, windows: Map<number, Tensor>, owned: boolean): Activations => ({
    ...shape,
    async tensor(indices) {
      const parts = indices.map((index, at) => [`w${at}`, windows.get(index)!] as const);
      const missing = indices.find((index) => !windows.has(index));
      if (missing !== undefined) throw new RangeError(`Cannot take window ${missing}: it was not written`);
      return (await (await session("join", indices.length, shape)).run(Object.fromEntries(parts))).all;
    },
    async write(first, data) {
      using all = data;
      const count = all.shape[0];
      const cut = await session("cut", count, shape);
      const into = Object.fromEntries(
        cut.outputs.map(({ name }) => [name, runtime.empty("float32", [1, shape.tokens, shape.features])]),
      );
      const parts = await cut.run({ all }, { into });
      for (let at = 0; at < count; at++) {
        windows.get(first + at)?.[Symbol.dispose]();
        windows.set(first + at, parts[`w${at}`]);
      }
    },
    [Symbol.dispose]() {
      if (!owned) return;
      for (const tensor of windows.values()) tensor[Symbol.dispose]();
      windows.clear();
    },
  });
  const created = new WeakMap<Activations, Map<number, Tensor>>();
  const drop = (name: string) => {
    for (const tensor of kept.get(name)?.windows.values() ?? []) tensor[Symbol.dispose]();
    kept.delete(name);
  };
  return {
    create(shape) {
      const windows = new Map<number, Tensor>();
      const made = over(shape, windows, true);
      created.set(made, windows);
      return made;
    },
    keep(name, activations) {
      const windows = created.get(activations)!;
      const { windows: count, tokens, features } = activations;
      drop(name);
      kept.set(name, { shape: { windows: count, tokens, features }, windows: new Map(windows) });
      windows.clear();
    },
    find(name, shape) {
      const found = kept.get(name);
      const { windows, tokens, features } = found?.shape ?? { windows: 0, tokens: 0, features: 0 };
      if (found === undefined || windows !== shape.windows || tokens !== shape.tokens) return undefined;
      return features === shape.features ? over(shape, found.windows, false) : undefined;
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
