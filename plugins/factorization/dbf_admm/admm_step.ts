/**
 * One outer step of ADMM (arXiv 2505.11076, section 4) as one graph.
 *
 * Both factors are kept with the middle dimension first: Aᵀ `(k, n)` and B `(k, m)`, so that both halves are the same
 * program. Of the splitting variables only Y = X + U is kept, as Z = sign(Y) ⊙ u·v and U = Y − Z follow from it.
 *
 * @module
 */
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { add, gemm, mul, sub } from "../../../pipeline/graph/ops.ts";
import { addDiagonal, factorSpd, solveSpd, type SpdBounds, type SpdFactor } from "./spd_solve.ts";
import { rankOne, signed, signOf, unit } from "./svid.ts";

/** Sizes and constants of a step. */
export interface StepShape {
  readonly rows: number;
  readonly cols: number;
  readonly rank: number;
  readonly innerSteps: number;
  /** Power iterations after each inner step; the previous vector is the start, so few are enough. */
  readonly powerIterations: number;
  readonly bounds: SpdBounds;
}

/** One factor between steps: Y `(k, p)`, u `(k, 1)`, v `(1, p)`. */
interface Side {
  readonly y: Value;
  readonly u: Value;
  readonly v: Value;
}

/** Names of the state's tensors, fed and returned under the same names (outputs have the suffix `_next`). */
export const STATE = ["aY", "aU", "aV", "bY", "bU", "bV"] as const;

/** Scalars of a half step. */
interface Penalties {
  /** Penalty of the first inner step. */
  readonly rho: Value;
  readonly ridge: Value;
}

/** Solves for one factor with the other, F `(k, q)` of unit rows, fixed; `cross` is F·W̃ or F·W̃ᵀ, `(k, p)`. */
function halfStep(g: Graph, fixed: Value, cross: Value, side: Side, penalties: Penalties, shape: StepShape): Side {
  const { rank, innerSteps, bounds } = shape;
  const gram = gemm(g, fixed, fixed, { transB: true }); // unit diagonal
  const factorAt = (rho: Value | number) =>
    factorSpd(g, addDiagonal(g, gram, rank, add(g, penalties.ridge, rho)), rank, bounds);
  let { y, u, v } = side;
  let factor: SpdFactor | undefined;
  for (let inner = 0; inner < innerSteps; inner++) {
    const rho = inner === 0 ? penalties.rho : 1;
    if (inner < 2) factor = factorAt(rho);
    const z = signed(g, y, { u, v });
    const pull = sub(g, add(g, z, z), y); // Z − U
    const x = solveSpd(g, factor!, add(g, cross, rho === 1 ? pull : mul(g, pull, rho)));
    y = sub(g, add(g, y, x), z); // X + U
    ({ u, v } = rankOne(g, y, v, shape.powerIterations));
  }
  return { y, u, v };
}

/** F = sign(Y) ⊙ v, rows of unit length. */
function unitRows(g: Graph, side: Side): Value {
  return mul(g, signOf(g, side.y), unit(g, side.v));
}

/**
 * Inputs: `w` W̃ `(n, m)`, scalars `rho`, `ridge`, and the state; outputs: the state after A's half and then B's.
 */
export function admmStepGraph(shape: StepShape): Graph {
  const { rows: n, cols: m, rank: k } = shape;
  const g = createGraph("admm_step");
  const w = g.input("w", "float32", [n, m]);
  const rho = g.input("rho", "float32", []), ridge = g.input("ridge", "float32", []);
  const side = (name: string, p: number): Side => ({
    y: g.input(`${name}Y`, "float32", [k, p]),
    u: g.input(`${name}U`, "float32", [k, 1]),
    v: g.input(`${name}V`, "float32", [1, p]),
  });
  const a = side("a", n), b = side("b", m);
  const fixedB = unitRows(g, b);
  const nextA = g.scope("A", () => halfStep(g, fixedB, gemm(g, fixedB, w, { transB: true }), a, { rho, ridge }, shape));
  const fixedA = unitRows(g, nextA);
  const nextB = g.scope("B", () => halfStep(g, fixedA, gemm(g, fixedA, w), b, { rho, ridge }, shape));
  for (const [name, next] of [["a", nextA], ["b", nextB]] as const) {
    g.output(`${name}Y_next`, next.y);
    g.output(`${name}U_next`, next.u);
    g.output(`${name}V_next`, next.v);
  }
  return g;
}
