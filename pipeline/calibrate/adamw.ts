/**
 * AdamW as a graph over flat vectors; parameters and moments stay on the device between steps.
 *
 * @module
 */
import type { Runtime, Session, Tensor } from "../../kernels/runtime/types.ts";
import { encodeModel } from "../graph/encode.ts";
import { createGraph } from "../graph/graph.ts";
import { add, div, mul, sqrt, sub } from "../graph/ops.ts";
import type { Graph } from "../graph/types.ts";
import { moveToTensor } from "./move_array.ts";
import { openTensorPool } from "./tensor_pool.ts";

/** Constants of the optimizer. */
export interface AdamWOptions {
  /** Default 0.9. */
  readonly beta1?: number;
  /** Default 0.95. */
  readonly beta2?: number;
  /** Default 1e-8. */
  readonly epsilon?: number;
  /** Decoupled weight decay a step, times the learning rate. Default 0. */
  readonly weightDecay?: number;
}

/** A flat vector in training. All are f32 `(n,)`, but `rates`, which may be `(1,)`. */
export interface TrainedVector {
  parameter: Tensor;
  /** Mean of gradients. */
  first: Tensor;
  /** Mean of squared gradients. */
  second: Tensor;
  /** Learning rate of every element, or one for all, before the schedule. */
  readonly rates: Tensor;
}

/** An optimizer ready to step any number of vectors. */
export interface AdamW extends AsyncDisposable {
  /**
   * One step: replaces the vector's tensors and keeps the old ones for the next step of a vector as long.
   *
   * @param gradient f32 `(n,)`; not disposed.
   * @param step Counted from 0, for the bias correction.
   * @param factor On the learning rate, from the schedule.
   */
  step(vector: TrainedVector, gradient: Tensor, step: number, factor: number): Promise<void>;
  /** Gives back what is kept for the next step; that one makes it anew, in a few milliseconds. */
  rest(): Promise<void>;
}

/**
 * One step of AdamW (Loshchilov & Hutter, arXiv 1711.05101) with bias correction (Kingma & Ba, arXiv 1412.6980).
 * Inputs `parameter`, `gradient`, `first`, `second` `(n,)`, `rates` `(n,)` or `(1,)`, `factor` and `correction` scalars:
 * factor = schedule / (1 − β₁ᵗ), correction = 1 / √(1 − β₂ᵗ); with weight decay also `decay` = schedule · decay. Outputs `parameter_next`, `first_next`, `second_next`.
 */
export function buildAdamW(options: AdamWOptions = {}): Graph {
  const { beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weightDecay = 0 } = options;
  const g = createGraph("adamw");
  const vector = (name: string) => g.input(name, "float32", ["n"]);
  const parameter = vector("parameter"),
    gradient = vector("gradient"),
    first = vector("first"),
    second = vector("second");
  const rates = g.input("rates", "float32", ["rates"]);
  const factor = g.input("factor", "float32", []), correction = g.input("correction", "float32", []);
  // m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²
  const mean = add(g, mul(g, first, beta1), mul(g, gradient, 1 - beta1));
  const square = add(g, mul(g, second, beta2), mul(g, mul(g, gradient, gradient), 1 - beta2));
  // p ← p − rate·( m/(1−β₁ᵗ) / (√v/√(1−β₂ᵗ) + ε) + decay·p )
  const direction = div(g, mul(g, mean, factor), add(g, mul(g, sqrt(g, square), correction), epsilon));
  const move = weightDecay === 0 ? direction : add(g, direction, mul(g, parameter, g.input("decay", "float32", [])));
  const next = sub(g, parameter, mul(g, move, rates));
  g.output("parameter_next", next);
  g.output("first_next", mean);
  g.output("second_next", square);
  return g;
}

/**
 * Loads the optimizer.
 *
 * @example
 * ```ts
 * import { assertAlmostEquals } from "@std/assert";
 * import { openRuntime } from "../../kernels/runtime/open.ts";
 * import { openAdamW, trainedVector } from "./adamw.ts";
 *
 * await using runtime = await openRuntime();
 * await using optimizer = await openAdamW(runtime);
 * const vector = trainedVector(runtime, Float32Array.of(1, -1), Float32Array.of(0.1));
 * await optimizer.step(vector, runtime.tensor("float32", Float32Array.of(5, -0.2), [2]), 0, 1);
 * const [x, y] = await vector.parameter.read() as Float32Array;
 * assertAlmostEquals(x, 0.9, 1e-6); // the first step moves by the learning rate against the gradient's sign
 * assertAlmostEquals(y, -0.9, 1e-6);
 * ```
 */
export async function openAdamW(runtime: Runtime, options: AdamWOptions = {}): Promise<AdamW> {
  const { beta1 = 0.9, beta2 = 0.95, weightDecay = 0 } = options;
  const load = () =>
    runtime.load(encodeModel(buildAdamW(options)), { name: "AdamW step", memoryPattern: runtime.provider !== "cpu" });
  let session: Session | undefined = await load();
  const spare = openTensorPool(runtime);
  const rest = async () => {
    spare[Symbol.dispose]();
    await session?.[Symbol.asyncDispose]();
    session = undefined;
  };
  return {
    rest,
    async step(vector, gradient, step, factor) {
      using scale = runtime.tensor("float32", Float32Array.of(factor / (1 - beta1 ** (step + 1))), []);
      using correction = runtime.tensor("float32", Float32Array.of(1 / Math.sqrt(1 - beta2 ** (step + 1))), []);
      const { parameter, first, second, rates } = vector;
      using decay = weightDecay === 0
        ? undefined
        : runtime.tensor("float32", Float32Array.of(factor * weightDecay), []);
      const feeds = { parameter, gradient, first, second, rates, factor: scale, correction };
      session ??= await load();
      const next = Object.fromEntries(session.outputs.map(({ name }) => [name, spare.lend(parameter.shape)]));
      const into = Object.fromEntries(Object.entries(next).map(([name, { tensor }]) => [name, tensor]));
      await session.run(decay === undefined ? feeds : { ...feeds, decay }, { into });
      vector.parameter = next.parameter_next.keep();
      vector.first = next.first_next.keep();
      vector.second = next.second_next.keep();
      for (const old of [parameter, first, second]) spare.give(old);
    },
    [Symbol.asyncDispose]: rest,
  };
}

/** Starts training from `parameter`, which is taken over and empty afterwards, with moments of zero. */
export function trainedVector(runtime: Runtime, parameter: Float32Array, rates: Float32Array): TrainedVector {
  const shape = [parameter.length];
  const zeros = () => moveToTensor(runtime, new Float32Array(shape[0]), shape);
  return {
    parameter: moveToTensor(runtime, parameter, shape),
    first: zeros(),
    second: zeros(),
    rates: runtime.tensor("float32", rates, [rates.length]),
  };
}

/** Frees a vector's tensors. */
export function disposeVector(vector: TrainedVector): void {
  for (const tensor of [vector.parameter, vector.first, vector.second, vector.rates]) tensor[Symbol.dispose]();
}
