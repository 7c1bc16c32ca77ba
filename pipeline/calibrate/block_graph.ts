/**
 * Graphs of one decoder block for calibration: forward, training loss, backward with recomputation, and statistics. All
 * weights are inputs, so blocks of one structure share a session.
 *
 * @module
 */
import type { BlockDescription, LinearDescription, ModelDescription } from "../model/types.ts";
import { differentiate } from "../graph/differentiate.ts";
import { createGraph } from "../graph/graph.ts";
import { add, div, gemm, mul, reduceMean, reduceSum, reshape, sub } from "../graph/ops.ts";
import type { Graph, Value } from "../graph/types.ts";
import { blockForward } from "./block_forward.ts";
import { clipTokens } from "./clip_tokens.ts";
import { signsOf } from "./latents.ts";
import type { FactorsShape } from "./layer_kind.ts";
import { LAYER_KINDS } from "./layer_kinds.ts";
import { flatLength, type Segment, unflatten } from "./parameters.ts";

/** Keeps the error of a token of zeros finite. */
const LEAST_SQUARE = 1e-12;

/** How a graph treats one linear: a dense weight fed as it is, one in the trained vector `dense`, or a factorized one in `latents` and `scales`. */
export type LinearTreatment = "frozen" | "trained" | FactorsShape;

/** What a block graph computes. */
export type BlockGraphKind =
  /** `y` of `x`. */
  | "forward"
  /** `loss` = mean(weights ⊙ (y − target)²), see {@linkcode BlockGraphOptions.relative}, and the gradients of everything trained. */
  | "tune"
  /** Gradients of everything trained and `x_gradient`, given `gradient` at `y`. */
  | "backward"
  /** Sums over tokens of x² and g² of every linear and `x_gradient`, given `gradient` at `y`. */
  | "statistics"
  /** `y`, and the sums over tokens of x² of every linear. */
  | "input-statistics"
  /** `y`, and the inputs of the linears, `rows/ROLE` `(batch·tokens, cols)`. */
  | "capture";

/** One block graph. */
export interface BlockGraphOptions {
  readonly kind: BlockGraphKind;
  /** Windows and tokens a run. */
  readonly batch: number;
  readonly tokens: number;
  /** By role; all linears of the block. */
  readonly linears: ReadonlyMap<string, LinearTreatment>;
  /** Tokens of a window whose norm is above this quantile of the window are scaled down to it in statistics. Default 1. */
  readonly clipQuantile?: number;
  /**
   * Divide each token's squared error by the mean square of its target, as the next norm will: otherwise tokens with massive
   * activations (Sun et al., arXiv 2402.17762) are all that a tuning sees. Default false.
   */
  readonly relative?: boolean;
}

/** Segments of the three trained vectors of a block. */
export interface BlockLayout {
  readonly dense: readonly Segment[];
  readonly latents: readonly Segment[];
  readonly scales: readonly Segment[];
}

/** The layout that a treatment gives; the order is that of the block's linears. */
export function blockLayout(block: BlockDescription, linears: ReadonlyMap<string, LinearTreatment>): BlockLayout {
  const factorized = (part: "latents" | "scales") =>
    block.linears.flatMap((linear) => {
      const treatment = linears.get(linear.role);
      return typeof treatment === "object" ? LAYER_KINDS[treatment.kind][part](linear, treatment) : [];
    });
  const dense = block.linears.filter(({ role }) => linears.get(role) === "trained");
  return {
    dense: dense.map(({ role, rows, cols }) => ({ name: role, shape: [rows, cols] })),
    latents: factorized("latents"),
    scales: factorized("scales"),
  };
}

/** Values of one group of a layout, cut out of its flat input; empty without segments. */
function group(g: Graph, name: string, segments: readonly Segment[], through: (flat: Value) => Value = (x) => x) {
  if (segments.length === 0) return { trained: [], pieces: new Map<string, Value>() };
  const flat = through(g.input(name, "float32", [flatLength(segments)]));
  return { trained: [{ name, flat }], pieces: unflatten(g, flat, segments) };
}

/**
 * Builds a block graph. Inputs beside those of its kind: `x` `(batch, tokens, hidden)`, `weight/ROLE` of frozen linears,
 * `fixed/ROLE/PART` of factorized ones, `bias/ROLE`, `norm/PLACE`, and the flat vectors `dense`, `latents`, `scales` that have segments. Outputs end in
 * `_gradient` where they are gradients of these.
 */
export function buildBlockGraph(model: ModelDescription, block: BlockDescription, options: BlockGraphOptions): Graph {
  const { kind, batch, tokens, linears } = options;
  const rows = batch * tokens;
  const g = createGraph(`block_${kind.replaceAll("-", "_")}`);
  const x = g.input("x", "float32", [batch, tokens, model.hiddenSize]);
  const layout = blockLayout(block, linears);
  const dense = group(g, "dense", layout.dense);
  // the gradient at the signs is taken for that at the latents: straight-through
  const latents = group(g, "latents", layout.latents, (flat) => signsOf(g, flat));
  const scales = group(g, "scales", layout.scales);
  const seen: { readonly linear: LinearDescription; readonly input: Value; readonly output: Value }[] = [];
  const y = blockForward(g, model, block, x, (linear, input) => {
    const flat = reshape(g, input, [rows, linear.cols]);
    const treatment = linears.get(linear.role);
    let output: Value;
    if (typeof treatment === "object") {
      const kind = LAYER_KINDS[treatment.kind];
      const fixed = kind.fixed(linear, treatment)
        .map(({ name, dtype, shape }) => [name, g.input(`fixed/${name}`, dtype, shape)] as const);
      output = kind.product(g, flat, linear, treatment, new Map([...latents.pieces, ...scales.pieces, ...fixed]));
    } else {
      const weight = treatment === "trained"
        ? dense.pieces.get(linear.role)!
        : g.input(`weight/${linear.role}`, "float32", [linear.rows, linear.cols]);
      output = gemm(g, flat, weight, { transB: true });
    }
    if (linear.bias !== undefined) output = add(g, output, g.input(`bias/${linear.role}`, "float32", [linear.rows]));
    seen.push({ linear, input: flat, output });
    return reshape(g, output, [batch, tokens, linear.rows]);
  });
  const trained = [...dense.trained, ...latents.trained, ...scales.trained];
  const squares = (value: Value) =>
    reduceSum(g, mul(g, ...twice(clipTokens(g, value, batch, tokens, options.clipQuantile ?? 1))), [0], false);
  if (kind === "forward" || kind === "capture" || kind === "input-statistics") {
    g.output("y", y);
    for (const { linear, input } of kind === "forward" ? [] : seen) {
      if (kind === "capture") g.output(`rows/${linear.role}`, input);
      else g.output(`input/${linear.role}`, squares(input));
    }
  } else if (kind === "tune") {
    const target = g.input("target", "float32", [batch, tokens, model.hiddenSize]);
    const weights = g.input("weights", "float32", [model.hiddenSize]);
    const difference = sub(g, y, target);
    const weighted = mul(g, mul(g, difference, difference), weights);
    const size = () => add(g, reduceMean(g, mul(g, target, target), [2], true), LEAST_SQUARE);
    const loss = reduceMean(g, options.relative ? div(g, weighted, size()) : weighted, [0, 1, 2], false);
    g.output("loss", loss);
    const gradients = differentiate(g, loss, trained.map(({ flat }) => flat));
    trained.forEach(({ name }, index) => g.output(`${name}_gradient`, gradients[index]));
  } else {
    const gradient = g.input("gradient", "float32", [batch, tokens, model.hiddenSize]);
    const seeds = [{ value: y, gradient }];
    if (kind === "backward") {
      const gradients = differentiate(g, seeds, [x, ...trained.map(({ flat }) => flat)]);
      ["x", ...trained.map(({ name }) => name)].forEach((name, i) => g.output(`${name}_gradient`, gradients[i]));
    } else {
      const gradients = differentiate(g, seeds, [x, ...seen.map(({ output }) => output)]);
      g.output("x_gradient", gradients[0]);
      seen.forEach(({ linear, input }, index) => {
        g.output(`input/${linear.role}`, squares(input));
        g.output(`output/${linear.role}`, squares(gradients[index + 1]));
      });
    }
  }
  return g;
}

function twice(value: Value): [Value, Value] {
  return [value, value];
}

/** Joins what decides a block's graph into a key: equal keys, equal graphs. */
export function blockGraphKey(block: BlockDescription, options: BlockGraphOptions): string {
  const { linears, norms, qkNormScope, rope, slidingWindow } = block;
  return JSON.stringify([
    linears.map(({ role, rows, cols, bias }) => [role, rows, cols, bias !== undefined, options.linears.get(role)]),
    Object.keys(norms).filter((place) => norms[place as keyof typeof norms] !== undefined).sort(),
    [qkNormScope, rope, slidingWindow],
    [options.kind, options.batch, options.tokens, options.clipQuantile, options.relative],
  ]);
}
