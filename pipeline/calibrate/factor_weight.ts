/**
 * The dense weight that factors stand for, computed on the device.
 *
 * @module
 */
import type { Runtime, Tensor } from "../../kernels/runtime/types.ts";
import { encodeModel } from "../graph/encode.ts";
import { createGraph } from "../graph/graph.ts";
import type { Graph, Value } from "../graph/types.ts";
import type { BlockDescription } from "../model/types.ts";
import type { Factors } from "../stream/stage.ts";
import { type BlockEngine, disposeFeeds, type Feeds } from "./engine.ts";
import { signsOf } from "./latents.ts";
import type { FactorsShape, LinearShape } from "./layer_kind.ts";
import { LAYER_KINDS } from "./layer_kinds.ts";
import { moveToTensor } from "./move_array.ts";

/** Ŵ of factors of one shape. Inputs are their parts by name; latents may be any values of the signs. Output `weight` `(rows, cols)`. */
export function factorWeightGraph(linear: LinearShape, shape: FactorsShape): Graph {
  const g = createGraph("factor_weight");
  const kind = LAYER_KINDS[shape.kind];
  const parts = new Map<string, Value>();
  for (const part of kind.latents(linear, shape)) {
    parts.set(part.name, signsOf(g, g.input(part.name, "float32", part.shape)));
  }
  for (const part of kind.scales(linear, shape)) parts.set(part.name, g.input(part.name, "float32", part.shape));
  for (const part of kind.fixed(linear, shape)) parts.set(part.name, g.input(part.name, part.dtype, part.shape));
  g.output("weight", kind.weight(g, linear, shape, parts));
  return g;
}

/**
 * Computes Ŵ of factors.
 *
 * @returns f32 `(rows, cols)`.
 */
export async function factorWeight(
  runtime: Runtime,
  linear: Pick<LinearShape, "rows" | "cols">,
  factors: Factors,
): Promise<Tensor> {
  const kind = LAYER_KINDS[factors.kind], shape = kind.shapeOf(factors), named = { ...linear, role: "layer" };
  // The session lives for one product: its arena would keep as much as a dense weight for every shape of layer.
  await using session = await runtime.load(encodeModel(factorWeightGraph(named, shape)), { name: "weight of factors" });
  const feeds: Feeds = {};
  const trained = kind.trained(named.role, factors), fixed = kind.fixedData(named.role, factors);
  for (const { name, shape: dims } of kind.latents(named, shape)) {
    feeds[name] = moveToTensor(runtime, trained.get(name)!, dims);
  }
  for (const { name, shape: dims } of kind.scales(named, shape)) {
    feeds[name] = runtime.tensor("float32", trained.get(name)!, dims);
  }
  for (const { name, dtype, shape: dims } of kind.fixed(named, shape)) {
    feeds[name] = runtime.tensor(dtype, fixed.get(name)!, dims);
  }
  try {
    return (await session.run(feeds)).weight;
  } finally {
    disposeFeeds(feeds);
  }
}

/** Dense weights of a block whose compressed layers are committed: `weight/ROLE` of all linears. */
export async function committedWeights(
  engine: BlockEngine,
  block: BlockDescription,
  factors: (name: string) => Promise<Factors | undefined>,
): Promise<Feeds> {
  const feeds: Feeds = {};
  for (const linear of block.linears) {
    const found = await factors(linear.weight);
    if (found === undefined) Object.assign(feeds, await engine.weights(block, [linear.role]));
    else feeds[`weight/${linear.role}`] = await factorWeight(engine.runtime, linear, found);
  }
  return feeds;
}
