/**
 * Nodes of the factorizer's native CPU operators (kernels/native/factorizer_ops.h): what takes hundreds of small standard nodes, or
 * many passes over memory, in one. Graphs use them where the runtime has them; the standard operators stay the definition.
 *
 * @module
 */
import { DBF_DOMAIN } from "../../../kernels/functions/binary_matmul.ts";
import type { Runtime } from "../../../kernels/runtime/types.ts";
import type { Graph, Value } from "../../../pipeline/graph/types.ts";

/** A factor between steps: Y `(k, p)`, u `(k, 1)`, v `(1, p)`; it stands for z = sign(y) ⊙ u·v. */
export interface Side {
  readonly y: Value;
  readonly u: Value;
  readonly v: Value;
}

const OPERATORS = ["SpdRoot", "FactorPull", "FactorAdvance", "FactorFix", "SignSearch"];

/** Whether sessions of `runtime` have these operators. */
export function hasNativeOps({ nativeKernels }: Runtime): boolean {
  return OPERATORS.every((name) => nativeKernels?.operators.includes(name));
}

function node(g: Graph, type: string, inputs: readonly Value[], like: readonly Value[], attributes = {}) {
  return g.node(type, inputs, attributes, {
    domain: DBF_DOMAIN,
    outputs: like.map(({ dtype, shape }) => ({ dtype, shape })),
  });
}

/** For every matrix M `(s, s)` with its λ a lower triangular R `(s, s)` with RᵀR = (M + λI)⁻¹; they are worked on in parallel. */
export function spdRoots(g: Graph, matrices: readonly Value[], lambdas: readonly Value[]): readonly Value[] {
  return node(g, "SpdRoot", matrices.flatMap((m, i) => [m, lambdas[i]]), matrices);
}

/** cross + ρ(2z − y), `(k, p)`. */
export function factorPull(g: Graph, cross: Value, { y, u, v }: Side, rho: Value): Value {
  return node(g, "FactorPull", [cross, y, u, v, rho], [y])[0];
}

/** The side after y' = y + α(x − z) and `steps` power iterations from v. */
export function factorAdvance(g: Graph, x: Value, { y, u, v }: Side, alpha: number, steps: number): Side {
  const outputs = node(g, "FactorAdvance", [x, y, u, v], [y, u, v], { alpha: { float: alpha }, steps });
  return { y: outputs[0], u: outputs[1], v: outputs[2] };
}

/** z + s(x − z) with rows of length one, `(k, p)`. */
export function factorFix(g: Graph, x: Value, { y, u, v }: Side, soft: Value): Value {
  return node(g, "FactorFix", [x, y, u, v, soft], [y])[0];
}

/** How long {@linkcode signSearch} looks. */
export interface SearchEffort {
  /** Steps of a column without improvement after which it ends. */
  readonly patience: number;
  /** Most steps of a column. */
  readonly steps: number;
  /** Steps for which a sign that flipped stays. */
  readonly tenure: number;
}

/**
 * Tabu search on every row of s `(p, k)`, signs times a magnitude of the row: minimizes sGsᵀ − 2sc over the signs, G `(k, k)`, with
 * r = s·G − c given. Never raises it.
 */
export function signSearch(g: Graph, s: Value, r: Value, gram: Value, effort: SearchEffort): Value {
  return node(g, "SignSearch", [s, r, gram], [s], { ...effort })[0];
}
