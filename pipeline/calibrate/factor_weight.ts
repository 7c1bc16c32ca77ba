/**
 * The dense weight that DBF factors stand for, computed on the device.
 *
 * @module
 */
import type { Runtime, Session, Tensor } from "../../kernels/runtime/types.ts";
import { encodeModel } from "../graph/encode.ts";
import { createGraph } from "../graph/graph.ts";
import { matMul, mul, unsqueeze } from "../graph/ops.ts";
import type { BlockDescription } from "../model/types.ts";
import type { DbfFactors, SignMatrix } from "../stream/stage.ts";
import type { BlockEngine, Feeds } from "./engine.ts";

/** Computes Ŵ of factors as a tensor `(rows, cols)`. */
export interface FactorWeights extends AsyncDisposable {
  weight(factors: DbfFactors): Promise<Tensor>;
}

/** Loads the product diag(a)·A·diag(mid)·B·diag(b). */
export async function openFactorWeights(runtime: Runtime): Promise<FactorWeights> {
  const g = createGraph("factor_weight");
  const A = g.input("A", "float32", ["n", "k"]), B = g.input("B", "float32", ["k", "m"]);
  const a = g.input("a", "float32", ["n"]), mid = g.input("mid", "float32", ["k"]), b = g.input("b", "float32", ["m"]);
  g.output("weight", mul(g, matMul(g, mul(g, A, mid), mul(g, B, b)), unsqueeze(g, a, [1])));
  const session: Session = await runtime.load(encodeModel(g), { name: "weight of factors" });
  const matrix = (signs: SignMatrix) => runtime.tensor("float32", unpackSigns(signs), [signs.rows, signs.cols]);
  const vector = (values: Float32Array) => runtime.tensor("float32", values, [values.length]);
  return {
    async weight(factors) {
      using A = matrix(factors.A), B = matrix(factors.B);
      using a = vector(factors.a), mid = vector(factors.mid), b = vector(factors.b);
      return (await session.run({ A, B, a, mid, b })).weight;
    },
    [Symbol.asyncDispose]: () => session[Symbol.asyncDispose](),
  };
}

/** ±1 of a packed sign matrix, row-major. */
export function unpackSigns({ rows, cols, words }: SignMatrix): Float32Array {
  const wordsPerRow = Math.ceil(cols / 32);
  const signs = new Float32Array(rows * cols);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++, at++) {
      signs[at] = (words[row * wordsPerRow + (col >>> 5)] >>> (col & 31)) & 1 ? 1 : -1;
    }
  }
  return signs;
}

/** Dense weights of a block whose compressed layers are committed: `weight/ROLE` of all linears. */
export async function committedWeights(
  engine: BlockEngine,
  products: FactorWeights,
  block: BlockDescription,
  factors: (name: string) => Promise<DbfFactors | undefined>,
): Promise<Feeds> {
  const feeds: Feeds = {};
  for (const { role, weight } of block.linears) {
    const found = await factors(weight);
    if (found === undefined) Object.assign(feeds, await engine.weights(block, [role]));
    else feeds[`weight/${role}`] = await products.weight(found);
  }
  return feeds;
}
