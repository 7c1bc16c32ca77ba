/**
 * Σ x xᵀ of the inputs that a linear gets in the compressed model.
 *
 * @module
 */
import type { Tensor } from "../../kernels/runtime/types.ts";
import { encodeModel } from "../graph/encode.ts";
import { createGraph } from "../graph/graph.ts";
import { gemm } from "../graph/ops.ts";
import type { Graph } from "../graph/types.ts";
import type { BlockDescription } from "../model/types.ts";
import { type ActivationSource, batchesOf } from "./activations.ts";
import { type BlockEngine, disposeFeeds, type Feeds, feedsFor } from "./engine.ts";
import { moveToTensor } from "./move_array.ts";
import { evenlyChosen } from "./windows.ts";

/** Tokens that a moment is taken over: several for each of the widest layers' inputs (GPTQ takes 2^18, arXiv 2210.17323). */
const MOMENT_TOKENS = 2 ** 16;

/** Adds a batch: inputs `rows` `(tokens, cols)` and `moment` `(cols, cols)`, output `moment_next`. */
export function momentGraph(cols: number): Graph {
  const g = createGraph("input_moment");
  const rows = g.input("rows", "float32", ["rows", cols]), moment = g.input("moment", "float32", [cols, cols]);
  g.output("moment_next", gemm(g, rows, rows, { transA: true, c: moment }));
  return g;
}

/** What {@linkcode inputMoment} runs. */
export interface MomentRun {
  readonly engine: BlockEngine;
  readonly block: BlockDescription;
  /** Inputs of the block in the compressed model. */
  readonly inputs: ActivationSource;
  /** Windows a run. */
  readonly batch: number;
  /** Norms, biases, and `weight/ROLE` of linears that are factorized already or kept. */
  readonly frozen: Feeds;
  /** Weights of the other linears, by role, f32. */
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly signal: AbortSignal;
}

/**
 * Runs windows, evenly chosen, through the block as it is now.
 *
 * @returns `(cols, cols)` f32, to be disposed by the caller.
 */
export async function inputMoment(run: MomentRun, role: string): Promise<Tensor> {
  const { engine, block, inputs, batch, frozen, weights, signal } = run;
  const { runtime } = engine;
  const { cols } = block.linears.find((linear) => linear.role === role)!;
  const { windows, tokens } = inputs;
  const dense: Feeds = {};
  for (const linear of block.linears) {
    const weight = weights.get(linear.role);
    if (weight === undefined) continue;
    dense[`weight/${linear.role}`] = runtime.tensor("float32", weight, [linear.rows, linear.cols]);
  }
  const linears = new Map(block.linears.map((linear) => [linear.role, "frozen" as const]));
  const stride = Math.max(1, Math.floor(windows * tokens / MOMENT_TOKENS));
  const chosen = evenlyChosen(windows, Math.ceil(windows / stride));
  await using accumulate = await runtime.load(encodeModel(momentGraph(cols)), { name: "input moment" });
  let moment = moveToTensor(runtime, new Float32Array(cols * cols), [cols, cols]);
  const name = `rows/${role}`;
  try {
    for (const part of batchesOf(chosen.length, batch)) {
      signal.throwIfAborted();
      const session = await engine.session(block, { kind: "capture", batch: part.length, tokens, linears });
      using x = await inputs.tensor(part.map((index) => chosen[index]));
      const found = await session.run(feedsFor(session, frozen, dense, { x }), { outputs: [name] });
      using rows = found[name];
      const { moment_next } = await accumulate.run({ rows, moment });
      moment[Symbol.dispose]();
      moment = moment_next;
    }
    return moment;
  } catch (error) {
    moment[Symbol.dispose]();
    throw error;
  } finally {
    disposeFeeds(dense);
  }
}
