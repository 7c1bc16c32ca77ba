/** Stages and a runtime that compute next to nothing, for tests of the machinery around them. */
import * as v from "valibot";
import type { Runtime } from "../../kernels/runtime/types.ts";
import type { AnyStage } from "../../pipeline/recipe/plugin_loader.ts";
import { type DbfFactors, defineStage, type LayerJob, type SignMatrix } from "../../pipeline/stream/stage.ts";

/** A runtime that no fake stage ever calls. */
export const fakeRuntime: Runtime = {
  provider: "cpu",
  binding: "onnxruntime-node",
  version: "0.0.0",
  nativeKernels: undefined,
  tensor: () => {
    throw new Error("not used");
  },
  empty: () => {
    throw new Error("not used");
  },
  load: () => Promise.reject(new Error("not used")),
  [Symbol.asyncDispose]: () => Promise.resolve(),
};

/** Signs from a seeded xorshift, padding bits 0. */
export function randomSigns(rows: number, cols: number, seed: number): SignMatrix {
  const width = Math.ceil(cols / 32);
  let state = seed | 1;
  const words = Uint32Array.from({ length: rows * width }, (_, index) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const used = index % width === width - 1 && cols % 32 !== 0 ? cols % 32 : 32;
    return used === 32 ? state >>> 0 : (state & (2 ** used - 1)) >>> 0;
  });
  return { rows, cols, words };
}

/** Factors that depend on the job's seed and the weight's first row. */
export function fakeFactors({ rows, cols, rank, seed }: LayerJob, first: Float32Array): DbfFactors {
  return {
    kind: "dbf",
    rank,
    A: randomSigns(rows, rank, seed),
    B: randomSigns(rank, cols, seed + 1),
    a: new Float32Array(rows).fill(1),
    mid: new Float32Array(rank).fill(0.5),
    b: first.slice(0, cols),
    weightedError: 0.25,
  };
}

/** Factorization without factorizing. */
export const fakeFactorization = defineStage({
  kind: "factorization",
  scope: "layer",
  name: "fake",
  version: "1.0.0",
  description: "Seeded signs.",
  options: v.strictObject({
    effort: v.optional(v.picklist(["fast", "balanced", "best"]), "balanced"),
    failOn: v.optional(v.string()),
  }),
  filter: { minElements: 64 },
  estimate: ({ rows, cols }) => ({ peakBytes: 4 * rows * cols }),
  async run({ job, weight }, { failOn }) {
    if (failOn !== undefined && job.name.includes(failOn)) throw new Error("told to fail");
    return fakeFactors(job, await weight.readRows(0, 1));
  },
});

/** A target that lists what it was given. */
export const fakeTarget = defineStage({
  kind: "target",
  scope: "model",
  name: "listing",
  version: "1.0.0",
  description: "A text file with the entries.",
  options: v.strictObject({}),
  estimate: () => ({ peakBytes: 0 }),
  async run({ source, directory, dtype }) {
    const lines = [...source.entries.values()].map(({ name, kind, shape }) => `${name} ${kind} ${shape}`);
    await Deno.writeTextFile(`${directory}/entries.onnx`, [dtype, ...lines].join("\n"));
    return { files: ["entries.onnx"] };
  },
});

/** All of them. */
export const fakeStages: readonly AnyStage[] = [fakeFactorization, fakeTarget];

/** Every file under `directory` with its content's hash, by relative path; working files are left out. */
export async function snapshot(directory: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  const walk = async (path: string, prefix: string) => {
    for await (const { name, isDirectory } of Deno.readDir(path)) {
      if (isDirectory) await walk(`${path}/${name}`, `${prefix}${name}/`);
      else {
        const digest = await crypto.subtle.digest("SHA-256", await Deno.readFile(`${path}/${name}`));
        found[prefix + name] = new Uint8Array(digest).toHex();
      }
    }
  };
  await walk(directory, "");
  return found;
}
