/**
 * What leaves the iteration: signs and first scales, and the continuous iterate for sign tuning.
 *
 * @module
 */
import type { Graph } from "../../../pipeline/graph/types.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { abs, div, max, min, mul, reshape, transpose } from "../../../pipeline/graph/ops.ts";
import { signOf, unit } from "./svid.ts";

/** Largest latent magnitude, far beyond what tuning can flip and well inside float16. */
const MOST_LATENT = 1e4;

/**
 * Inputs: the state's `aY` `(k, n)`, `aV` `(1, n)`, `bY` `(k, m)`, `bU` `(k, 1)`, `bV` `(1, m)`. Outputs: `A` `(k, n)` and `B` `(k, m)` of ±1,
 * `a` `(n, 1)`, `mid` `(k, 1)`, `b` `(1, m)` with W̃ ≈ diag(a)·Aᵀ·diag(mid)·B·diag(b).
 */
export function extractGraph(n: number, m: number, k: number): Graph {
  const g = createGraph("extract");
  const aY = g.input("aY", "float32", [k, n]), aV = g.input("aV", "float32", [1, n]);
  const bY = g.input("bY", "float32", [k, m]), bU = g.input("bU", "float32", [k, 1]);
  const bV = g.input("bV", "float32", [1, m]);
  g.output("A", signOf(g, aY));
  g.output("B", signOf(g, bY));
  g.output("a", reshape(g, unit(g, aV), [n, 1]));
  g.output("mid", bU);
  g.output("b", bV);
  return g;
}

/**
 * The iterate in unit scale: `sign ⊙ |Y| / (u·v)`, so that one is the rank-one magnitude and small values are the
 * ambiguous signs. Inputs: `y` and `signs` `(k, p)`, `u` `(k, 1)`, `v` `(1, p)`; output `latents`, `(k, p)` or,
 * `transposed`, `(p, k)`.
 */
export function latentsGraph(k: number, p: number, transposed: boolean): Graph {
  const g = createGraph("latents");
  const y = g.input("y", "float32", [k, p]), signs = g.input("signs", "float32", [k, p]);
  const u = g.input("u", "float32", [k, 1]), v = g.input("v", "float32", [1, p]);
  const magnitude = div(g, div(g, abs(g, y), max(g, u, 1e-20)), max(g, v, 1e-20));
  const result = mul(g, signs, min(g, magnitude, MOST_LATENT));
  g.output("latents", transposed ? transpose(g, result, [1, 0]) : result);
  return g;
}
