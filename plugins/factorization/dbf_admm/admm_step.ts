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
import { add, div, gemm, max, mul, reduceSumSquare, sqrt, sub } from "../../../pipeline/graph/ops.ts";
import { factorSpd, gramBlocks, solveSpd, type SpdBounds, type SpdFactor } from "./spd_solve.ts";
import { magnitudeOf, rankOne, signed } from "./svid.ts";

/** Sizes and constants of a step. */
export interface StepShape {
  readonly rows: number;
  readonly cols: number;
  readonly rank: number;
  readonly innerSteps: number;
  /** Power iterations after each inner step; the previous vector is the start, so few are enough. */
  readonly powerIterations: number;
  readonly bounds: SpdBounds;
  /** Over-relaxation α; 1 is none. */
  readonly relaxation: number;
}

/** Keeps rows of an all-zero factor finite. */
const TINY = 1e-30;

/** One factor between steps: Y `(k, p)`, u `(k, 1)`, v `(1, p)`. */
interface Side {
  readonly y: Value;
  readonly u: Value;
  readonly v: Value;
}

/** A factor after its half step, and what the other half takes as fixed: `(k, p)` with rows of unit length. */
interface Solved extends Side {
  readonly fixed: Value;
}

/** Names of the state's tensors, fed and returned under the same names (outputs have the suffix `_next`). */
export const STATE = ["aY", "aU", "aV", "bY", "bU", "bV", "bFixed"] as const;

/** Scalars fed to every step, see {@linkcode Penalties}. */
export const SCALARS = ["rho", "ridge", "soft"] as const;

/** Scalars of a half step. */
interface Penalties {
  /** Penalty of the first inner step; later ones use 1. */
  readonly rho: Value;
  /** Added to the Gram matrix, whose diagonal is one. */
  readonly ridge: Value;
  /** Share of the continuous solution in what the other half takes as fixed. */
  readonly soft: Value;
}

/** Solves for one factor with the other, F `(k, q)` of unit rows, fixed; `cross` is F·W̃ or F·W̃ᵀ, `(k, p)`. */
function halfStep(g: Graph, fixed: Value, cross: Value, side: Side, penalties: Penalties, shape: StepShape): Solved {
  const { rank, innerSteps, bounds, relaxation } = shape;
  const gram = gramBlocks(g, fixed); // unit diagonal
  const factorAt = (rho: Value | number) =>
    factorSpd(g, gram, [0, rank], add(g, penalties.ridge, rho), rho === 1 ? { ...bounds, lowest: 1 } : bounds);
  let { y, u, v } = side;
  let factor: SpdFactor | undefined, x: Value | undefined;
  let z = signed(g, y, magnitudeOf(g, y), { u, v });
  for (let inner = 0; inner < innerSteps; inner++) {
    const rho = inner === 0 ? penalties.rho : 1;
    if (inner < 2) factor = factorAt(rho);
    const minusDual = sub(g, z, y), pull = add(g, z, minusDual); // −U, Z − U
    x = solveSpd(g, factor!, add(g, cross, rho === 1 ? pull : mul(g, pull, rho)));
    // αX + (1 − α)Z + U
    y = relaxation === 1 ? sub(g, x, minusDual) : add(g, y, mul(g, sub(g, x, z), relaxation));
    const magnitude = magnitudeOf(g, y);
    ({ u, v } = rankOne(g, magnitude, v, shape.powerIterations));
    z = signed(g, y, magnitude, { u, v });
  }
  const mixed = add(g, z, mul(g, sub(g, x!, z), penalties.soft));
  const length = sqrt(g, reduceSumSquare(g, mixed, [1]));
  return { y, u, v, fixed: div(g, mixed, max(g, length, TINY)) };
}

/**
 * Inputs: `w` W̃ `(n, m)`, the scalars and the state; outputs: the state after A's half and then B's.
 */
export function admmStepGraph(shape: StepShape): Graph {
  const { rows: n, cols: m, rank: k } = shape;
  const g = createGraph("admm_step");
  const w = g.input("w", "float32", [n, m]);
  const [rho, ridge, soft] = SCALARS.map((name) => g.input(name, "float32", []));
  const penalties: Penalties = { rho, ridge, soft };
  const side = (name: string, p: number): Side => ({
    y: g.input(`${name}Y`, "float32", [k, p]),
    u: g.input(`${name}U`, "float32", [k, 1]),
    v: g.input(`${name}V`, "float32", [1, p]),
  });
  const a = side("a", n), b = side("b", m), fixedB = g.input("bFixed", "float32", [k, m]);
  const nextA = g.scope("A", () => halfStep(g, fixedB, gemm(g, fixedB, w, { transB: true }), a, penalties, shape));
  const nextB = g.scope("B", () => halfStep(g, nextA.fixed, gemm(g, nextA.fixed, w), b, penalties, shape));
  for (const [name, next] of [["a", nextA], ["b", nextB]] as const) {
    g.output(`${name}Y_next`, next.y);
    g.output(`${name}U_next`, next.u);
    g.output(`${name}V_next`, next.v);
  }
  g.output("bFixed_next", nextB.fixed);
  return g;
}
