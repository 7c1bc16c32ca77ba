/**
 * One weighted matrix to binary factors, on the device from start to end.
 *
 * @module
 */
import type { Runtime, Tensor } from "../../../kernels/runtime/types.ts";
import type { DbfFactors, SignMatrix } from "../../../pipeline/stream/stage.ts";
import { f32ToF16Bits } from "../../../pipeline/checkpoint/half.ts";
import { admmHalfGraph, SCHEDULE_COLUMNS, type StepShape } from "./admm_step.ts";
import { packedRowBytes, packGraph, unpackGraph } from "./bits.ts";
import { extractGraph, latentsGraph } from "./latents.ts";
import type { Settings } from "./options.ts";
import { randomWords } from "./random_signs.ts";
import { errorGraph, refitGraph } from "./refit.ts";
import { hasNativeOps } from "./native_ops.ts";
import { pairFlipsGraph } from "./pair_flips.ts";
import { lowestPenalty, scheduleTable } from "./schedule.ts";
import { GPU_LEAN_ELEMENTS, LEAN_ELEMENTS, MOST_KEPT_ELEMENTS, openPool, type SessionPool } from "./sessions.ts";
import { signDescentGraph } from "./sign_descent.ts";
import { signSearchGraph } from "./sign_search.ts";
import type { SpdBounds } from "./spd_solve.ts";
import { weigh, type Weighted, type WeightSource } from "./weigh.ts";
import type { Weighting } from "./weighting.ts";

/** A matrix to factorize. */
export interface Problem extends WeightSource {
  /** Middle dimension k ≥ 1, not limited by rows or cols. */
  readonly rank: number;
  /** 32 bits. */
  readonly seed: number;
}

/** What {@linkcode factorize} reports while it runs. */
export interface Progress {
  readonly done: number;
  readonly total: number;
  readonly detail?: Readonly<Record<string, number>>;
}

/** Surroundings of {@linkcode factorize}. */
export interface FactorizeContext {
  readonly runtime: Runtime;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
}

type Tensors = Record<string, Tensor>;

/** Passes of pair flips that stand for a sweep on a GPU: a few hundredths of all signs flip. */
const GPU_PASSES = 96;

function dispose(...tensors: readonly (Tensor | undefined)[]): void {
  for (const each of tensors) each?.[Symbol.dispose]();
}

async function scalar(tensor: Tensor): Promise<number> {
  const data = await tensor.read() as Float32Array;
  dispose(tensor);
  return data[0];
}

/** Block sizes of the solves: CPUs pay for operations, GPUs for launches, and less for operations with TF32. */
function blocksOf(runtime: Runtime, { tf32 }: Settings): Pick<SpdBounds, "leaf" | "block" | "native"> {
  if (runtime.provider === "cpu") return { leaf: 48, block: 144, native: hasNativeOps(runtime) };
  return tf32 ? { leaf: 1024, block: 1024 } : { leaf: 512, block: 512 };
}

/** Whether sessions end after each use, as what they keep for their next run is more than a load costs. */
function endsSessions(runtime: Runtime, rows: number, cols: number): boolean {
  return runtime.provider === "cpu" || isLarge(runtime, rows, cols);
}

/** Whether memory counts for more than the time of loading sessions again. */
function isLarge(runtime: Runtime, rows: number, cols: number): boolean {
  return rows * cols > (runtime.provider === "cpu" ? LEAN_ELEMENTS : GPU_LEAN_ELEMENTS);
}

/** Iterates ADMM from random signs of B; A starts at zero. */
async function iterate(
  problem: Problem,
  settings: Settings,
  w: Tensor,
  pool: SessionPool,
  context: FactorizeContext,
  report: (detail?: Record<string, number>) => void,
): Promise<Tensors> {
  const { rows: n, cols: m, rank: k, seed } = problem;
  const { runtime, signal } = context;
  const words = randomWords(seed, k * Math.ceil(m / 32));
  const bits = runtime.tensor("uint8", new Uint8Array(words.buffer), [k, packedRowBytes(m)]);
  const { signs, unit } = await pool.run("unpackB", () => unpackGraph(k, m), { bits });
  dispose(bits);
  await pool.clear();
  const filled = (length: number, value: number, shape: number[]) =>
    runtime.tensor("float32", new Float32Array(length).fill(value), shape);
  const schedule = runtime.tensor("float32", scheduleTable(settings), [settings.iterations, SCHEDULE_COLUMNS.length]);
  const start = () => runtime.tensor("int64", BigInt64Array.of(0n), []);
  const sides: Record<"A" | "B", Tensors> = {
    A: { step: start(), y: filled(k * n, 0, [k, n]), u: filled(k, 0, [k, 1]), v: filled(n, 1, [1, n]) },
    B: { step: start(), y: signs, u: filled(k, 1, [k, 1]), v: filled(m, 1, [1, m]) },
  };
  let fixed = unit;
  let spare: Record<"A" | "B", Tensors> = { A: {}, B: {} };
  const discard = () => {
    dispose(...Object.values(spare.A), ...Object.values(spare.B));
    spare = { A: {}, B: {} };
  };
  const large = isLarge(runtime, n, m), lean = large || runtime.binding !== "c-api";
  const shape: StepShape = {
    rows: n,
    cols: m,
    rank: k,
    innerSteps: settings.innerSteps,
    steps: settings.iterations,
    powerIterations: 1,
    relaxation: settings.relaxation,
    bounds: {
      lowest: lowestPenalty(settings),
      diagonal: 1.001,
      shift: 1 + Math.max(settings.ridgeStart, settings.ridgeEnd),
      ...blocksOf(runtime, settings),
    },
  };
  // Layers that share sessions have tensors of their own each, and every set of tensors would be recorded.
  const cudaGraph = !lean && n * m > MOST_KEPT_ELEMENTS;
  try {
    for (let t = 0; t < settings.iterations; t++) {
      signal?.throwIfAborted();
      for (const which of ["A", "B"] as const) {
        const into = spare[which], { step, y, u, v } = sides[which], other = which === "A" ? "B" : "A";
        spare[which] = {};
        const feeds = { w, schedule, step, fixed, y, u, v };
        const next = await pool.run(`half${which}`, () => admmHalfGraph(shape, which), feeds, into, { cudaGraph });
        // What this half read is what its next run writes; the other half made `fixed`.
        spare[which] = { step_next: step, y_next: y, u_next: u, v_next: v };
        spare[other] = { ...spare[other], fixed_next: fixed };
        sides[which] = { step: next.step_next, y: next.y_next, u: next.u_next, v: next.v_next };
        fixed = next.fixed_next;
        if (lean) discard();
        if (large) await pool.clear();
      }
      report();
    }
    const { A, B } = sides;
    dispose(A.step, B.step);
    return { aY: A.y, aU: A.u, aV: A.v, bY: B.y, bU: B.u, bV: B.v };
  } catch (error) {
    dispose(...Object.values(sides.A), ...Object.values(sides.B));
    throw error;
  } finally {
    dispose(fixed, schedule);
    discard();
    await pool.clear();
  }
}

/** Refits scales and flips signs until a sweep gains little. `f` is replaced as it goes. */
async function polish(
  problem: Problem,
  settings: Settings,
  { w, meanSquare }: Weighted,
  f: Tensors,
  pool: SessionPool,
  context: FactorizeContext,
  report: (detail?: Record<string, number>) => void,
): Promise<number> {
  const { rows: n, cols: m, rank: k } = problem;
  const { runtime, signal } = context;
  const searches = settings.patience > 0 && hasNativeOps(runtime);
  const clear = () => endsSessions(runtime, n, m) ? pool.clear() : Promise.resolve();
  const measure = async () => {
    const result = await scalar((await pool.run("error", () => errorGraph(n, m, k), { w, ...f })).error);
    await clear();
    return meanSquare === 0 ? 0 : result / meanSquare;
  };
  const refit = async () => {
    const next = await pool.run("refit", () => refitGraph(n, m, k, blocksOf(runtime, settings)), { w, ...f });
    dispose(f.a, f.mid, f.b);
    [f.a, f.mid, f.b] = [next.a_next, next.mid_next, next.b_next];
    await clear();
  };
  const descend = async (side: "A" | "B", passes: number) => {
    const [key, build] = searches
      ? [`search${side}`, () => signSearchGraph(n, m, k, side, settings.patience)] as const
      : passes > 0
      ? [`pairs${side}`, () => pairFlipsGraph(n, m, k, side, passes)] as const
      : [`descend${side}`, () => signDescentGraph(n, m, k, side)] as const;
    const flat = (tensor: Tensor, length: number) => reshaped(runtime, tensor, [1, length]);
    const own = side === "A" ? "a" : "b", other = side === "A" ? "b" : "a";
    const fixedScale = other === "a" ? await flat(f.a, n) : f.b, scale = own === "a" ? await flat(f.a, n) : f.b;
    const next = await pool.run(key, build, {
      w,
      fixed: side === "A" ? f.B : f.A,
      fixedScale,
      mid: f.mid,
      signs: f[side],
      scale,
    });
    if (other === "a") dispose(fixedScale);
    if (own === "a") dispose(scale);
    dispose(f[side], f[own]);
    f[side] = next.signs_next;
    if (own === "a") {
      f.a = await reshaped(runtime, next.scale_next, [n, 1]);
      dispose(next.scale_next);
    } else f.b = next.scale_next;
    await clear();
  };
  let error = await measure();
  report({ errorAfterAdmm: error });
  for (let round = 0; round < settings.refits; round++) await refit();
  if (settings.refits > 0) report({ errorAfterRefit: error = await measure() });
  const round = async (name: string, passes: number) => {
    signal?.throwIfAborted();
    await descend("B", passes);
    await descend("A", passes);
    await refit();
    const before = error;
    report({ [name]: error = await measure() });
    return before - error > settings.tolerance * before;
  };
  // Row after row is fast on a CPU and all launches on a GPU, which flips the best signs of all columns at once instead.
  const sweepPasses = runtime.provider === "cpu" ? 0 : Math.max(GPU_PASSES, settings.pairPasses);
  for (let sweep = 1; sweep <= settings.sweeps; sweep++) {
    if (!await round(`errorAfterSweep${sweep}`, sweepPasses)) break;
  }
  if (settings.pairPasses > 0 && runtime.provider === "cpu" && !searches) {
    await round("errorAfterPairs", settings.pairPasses);
  }
  return error;
}

/** The same elements under another shape (vectors only: they pass through JavaScript). */
async function reshaped(runtime: Runtime, tensor: Tensor, shape: readonly number[]): Promise<Tensor> {
  return runtime.tensor("float32", await tensor.read(), shape);
}

async function packSigns(
  signs: Tensor,
  rows: number,
  cols: number,
  transposed: boolean,
  pool: SessionPool,
): Promise<SignMatrix> {
  const { bits } = await pool.run(`pack${transposed}`, () => packGraph(rows, cols, transposed), { signs });
  const bytes = await bits.read() as Uint8Array;
  dispose(bits);
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return { rows, cols, words: new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 4) };
}

async function readLatents(
  feeds: Tensors,
  k: number,
  p: number,
  transposed: boolean,
  pool: SessionPool,
): Promise<Uint16Array> {
  const { latents } = await pool.run(`latents${transposed}`, () => latentsGraph(k, p, transposed), feeds);
  const data = await latents.read() as Float32Array;
  dispose(latents);
  return f32ToF16Bits(data);
}

/** Undoes weighting and normalization, and spreads the overall magnitude evenly over the three scales. */
function finishScales(a: Float32Array, mid: Float32Array, b: Float32Array, factor: number, weighting: Weighting) {
  const wide = [
    Float64Array.from(a, (value, i) => value / weighting.row[i]),
    Float64Array.from(mid),
    Float64Array.from(b, (value, j) => value / weighting.col[j]),
  ];
  const means = wide.map((scale) => scale.reduce((sum, value) => sum + Math.abs(value), 0) / scale.length);
  const total = factor * means[0] * means[1] * means[2];
  const target = Math.cbrt(total);
  return wide.map((scale, index) =>
    Float32Array.from(scale, (value) => total > 0 ? value * (target / means[index]) : 0)
  );
}

/**
 * Minimizes ‖D_o^½ (W − diag(a)·A·diag(mid)·B·diag(b)) D_i^½‖² over signs and scales: ADMM, exact scale refit, sign
 * coordinate descent.
 *
 * @throws {RangeError} when W has NaN or infinite entries.
 * @throws {Error} when the iteration diverges, as TF32 can make it.
 */
export async function factorize(problem: Problem, settings: Settings, context: FactorizeContext): Promise<DbfFactors> {
  const { rows: n, cols: m, rank: k } = problem;
  const shared = n * m <= MOST_KEPT_ELEMENTS;
  const prefix = `dbf-admm ${n}x${m} k=${k} ${JSON.stringify(settings)}`;
  await using pool = openPool(context.runtime, prefix, shared, {
    tf32: settings.tf32,
    memoryPattern: shared,
    optimization: "basic", // loads in half the time of "all" and runs as fast
  });
  const total = settings.iterations + settings.sweeps + 3;
  let done = 0;
  const report = (detail?: Record<string, number>) =>
    context.onProgress?.({ done: Math.min(++done, total), total, ...(detail && { detail }) });

  const { w, factor, meanSquare } = await weigh(problem, pool, context.runtime);
  let state: Tensors = {}, f: Tensors = {};
  try {
    state = await iterate(problem, settings, w, pool, context, report);
    const { aY, aV, bY, bU, bV } = state;
    f = await pool.run("extract", () => extractGraph(n, m, k), { aY, aV, bY, bU, bV });
    if (!settings.latents) dispose(...Object.values(state));
    const weightedError = await polish(problem, settings, { w, factor, meanSquare }, f, pool, context, report);
    if (!Number.isFinite(weightedError)) {
      throw new Error(
        `Cannot factorize "${problem.name}": the iteration diverged (error ${weightedError})${
          settings.tf32 ? "; switch the option tf32 off" : "; raise the option ridgeEnd or rhoStart"
        }`,
      );
    }
    const read = async (tensor: Tensor) => await tensor.read() as Float32Array;
    const [a, mid, b] = finishScales(await read(f.a), await read(f.mid), await read(f.b), factor, problem.weighting);
    return {
      kind: "dbf",
      rank: k,
      A: await packSigns(f.A, n, k, true, pool),
      B: await packSigns(f.B, k, m, false, pool),
      a,
      mid,
      b,
      weightedError,
      ...(settings.latents && {
        latents: {
          A: await readLatents({ y: aY, signs: f.A, u: state.aU, v: aV }, k, n, true, pool),
          B: await readLatents({ y: bY, signs: f.B, u: bU, v: bV }, k, m, false, pool),
        },
      }),
    };
  } finally {
    dispose(w, ...Object.values(state), ...Object.values(f));
  }
}
