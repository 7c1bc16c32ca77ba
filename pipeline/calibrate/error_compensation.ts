/**
 * Closed-form compensation of errors that earlier layers made, without gradients (QEP).
 *
 * @module
 */
import type { Tensor } from "../../kernels/runtime/types.ts";
import { factorSpd, matrixBlocks, solveSpd } from "../../plugins/factorization/dbf_admm/spd_solve.ts";
import { encodeModel } from "../graph/encode.ts";
import { createGraph } from "../graph/graph.ts";
import { add, div, gatherElements, gemm, max, mul, sqrt, squeeze, sub, transpose, unsqueeze } from "../graph/ops.ts";
import type { Graph } from "../graph/types.ts";
import type { BlockDescription } from "../model/types.ts";
import { type ActivationSource, batchesOf } from "./activations.ts";
import { type BlockEngine, disposeFeeds, type Feeds, feedsFor, readFloats } from "./engine.ts";
import { moveToTensor } from "./move_array.ts";
import type { WeightCorrection } from "./reconstruct.ts";

/** Numbers of the compensation. */
export interface ErrorCompensationOptions {
  /** Share of the full correction, α. */
  readonly strength: number;
  /** Ridge on the inputs' covariance, in each feature's own mean square. */
  readonly ridge: number;
  /** Windows a run. */
  readonly batch: number;
}

/** Blocks up to this size get an explicit inverse; leaves are solved by Newton–Schulz. */
const SOLVER_BLOCK = 256, SOLVER_LEAF = 32;

/** Adds a batch to H = Σ x̂x̂ᵀ and C = Σ (x − x̂)x̂ᵀ. Rows are tokens. */
function accumulationGraph(cols: number): Graph {
  const g = createGraph("error_statistics");
  const exact = g.input("exact", "float32", ["rows", cols]), actual = g.input("actual", "float32", ["rows", cols]);
  const covariance = g.input("covariance", "float32", [cols, cols]), cross = g.input("cross", "float32", [cols, cols]);
  g.output("covariance_next", gemm(g, actual, actual, { transA: true, c: covariance }));
  g.output("cross_next", gemm(g, sub(g, exact, actual), actual, { transA: true, c: cross }));
  return g;
}

/**
 * W + α·W·C·(H + λ·diag H)⁻¹, solved with H scaled to a unit diagonal. Inputs `weight` `(rows, cols)`, `covariance` H and
 * `cross` C `(cols, cols)`; output `corrected`.
 */
export function correctionGraph(
  rows: number,
  cols: number,
  { strength, ridge }: Pick<ErrorCompensationOptions, "strength" | "ridge">,
): Graph {
  const g = createGraph("error_correction");
  const weight = g.input("weight", "float32", [rows, cols]);
  const covariance = g.input("covariance", "float32", [cols, cols]), cross = g.input("cross", "float32", [cols, cols]);
  const places = g.constant(BigInt64Array.from({ length: cols }, (_, at) => BigInt(at)), [cols, 1]);
  const diagonal = squeeze(g, gatherElements(g, covariance, places, 1), [1]);
  const root = max(g, sqrt(g, diagonal), 1e-20);
  const column = unsqueeze(g, root, [1]);
  const scaled = div(g, div(g, covariance, column), root);
  // The ridge alone bounds the spectrum from below; a factor is kept for rounding.
  const bounds = { lowest: ridge / 2, diagonal: 1 + 1e-3, shift: ridge, leaf: SOLVER_LEAF, block: SOLVER_BLOCK };
  const pull = div(g, transpose(g, gemm(g, weight, cross), [1, 0]), column);
  const [factor] = factorSpd(g, matrixBlocks(g, scaled), cols, [{ lambda: g.constant(ridge), bounds }]);
  const solved = div(g, solveSpd(g, factor, pull), column);
  g.output("corrected", add(g, weight, mul(g, transpose(g, solved, [1, 0]), strength)));
  return g;
}

/**
 * Before a linear is factorized: W += α·W·C·(H + λI)⁻¹ with x the full-precision model's inputs of the linear and x̂ those
 * that it really gets, so that W·x̂ comes closer to W·x (Arai & Ichikawa, "Quantization Error Propagation", arXiv
 * 2504.09629). The ridge is in each feature's own mean square.
 */
export function errorCompensation(
  engine: BlockEngine,
  block: BlockDescription,
  options: ErrorCompensationOptions,
): WeightCorrection {
  const { runtime } = engine;
  return async ({ inputs, reference, frozen }, role, weights) => {
    const { rows, cols } = block.linears.find((linear) => linear.role === role)!;
    const current: Feeds = { ...frozen };
    const temporary: Feeds = {};
    for (const linear of block.linears) {
      const dense = weights.get(linear.role);
      if (dense !== undefined) {
        temporary[`weight/${linear.role}`] = runtime.tensor("float32", dense, [linear.rows, linear.cols]);
      }
    }
    const exactWeights = await engine.weights(block);
    const name = `rows/${role}`;
    const { tokens, windows } = inputs;
    const linears = new Map(block.linears.map((linear) => [linear.role, "frozen" as const]));
    await using accumulate = await runtime.load(encodeModel(accumulationGraph(cols)), { name: "error statistics" });
    const zero = () => moveToTensor(runtime, new Float32Array(cols * cols), [cols, cols]);
    let sums = { covariance: zero(), cross: zero() };
    for (const indices of batchesOf(windows, options.batch)) {
      const session = await engine.session(block, { kind: "capture", batch: indices.length, tokens, linears });
      const rowsOf = async (of: ActivationSource, feeds: Feeds): Promise<Tensor> => {
        using x = await of.tensor(indices);
        return (await session.run(feedsFor(session, frozen, feeds, { x }), { outputs: [name] }))[name];
      };
      using exact = await rowsOf(reference, exactWeights);
      using actual = await rowsOf(inputs, { ...current, ...temporary });
      const next = await accumulate.run({ exact, actual, ...sums });
      disposeFeeds(sums);
      sums = { covariance: next.covariance_next, cross: next.cross_next };
    }
    await using correct = await runtime.load(encodeModel(correctionGraph(rows, cols, options)), {
      name: "error correction",
    });
    const { corrected } = await correct.run({ weight: temporary[`weight/${role}`], ...sums });
    weights.set(role, await readFloats(corrected));
    disposeFeeds(sums);
    disposeFeeds(temporary);
    disposeFeeds(exactWeights);
  };
}
