/**
 * Half an outer step of ADMM (arXiv 2505.11076, section 4) as one graph: solves for A, or for B, with the other fixed.
 *
 * Both factors are kept with the middle dimension first: Aᵀ `(k, n)` and B `(k, m)`, so that both halves are the same
 * program. Of the splitting variables only Y = X + U is kept, as Z = sign(Y) ⊙ u·v and U = Y − Z follow from it.
 *
 * @module
 */
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import {
  add,
  div,
  gather,
  gemm,
  int64,
  max,
  mul,
  reduceSumSquare,
  split,
  sqrt,
  sub,
} from "../../../pipeline/graph/ops.ts";
import { factorSpd, gramBlocks, solveSpd, type SpdBounds, type SpdFactor } from "./spd_solve.ts";
import { magnitudeOf, rankOne, signed } from "./svid.ts";

/** Sizes and constants of a step. */
export interface StepShape {
  readonly rows: number;
  readonly cols: number;
  readonly rank: number;
  readonly innerSteps: number;
  /** Outer steps: rows of the schedule. */
  readonly steps: number;
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

/** Columns of the schedule, see {@linkcode Penalties}. */
export const SCHEDULE_COLUMNS = ["rho", "ridge", "soft"] as const;

/** Scalars of a half step, each `(1,)`. */
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
 * The half step for A or B, p being its outer dimension and q the other's.
 *
 * Inputs: `w` W̃ `(n, m)`, `schedule` `(steps, 3)` with the penalties of every outer step, `step` (int64, scalar) that counts them, the
 * other factor `fixed` `(k, q)`, and the state `y` `(k, p)`, `u` `(k, 1)`, `v` `(1, p)`. Outputs: `step_next`, `y_next`, `u_next`,
 * `v_next`, and `fixed_next` `(k, p)` for the other half. Penalties come from a table, so that a run reads nothing of the host.
 */
export function admmHalfGraph(shape: StepShape, which: "A" | "B"): Graph {
  const { rows: n, cols: m, rank: k, steps } = shape;
  const [p, q] = which === "A" ? [n, m] : [m, n];
  const g = createGraph(`admm_${which}`);
  const w = g.input("w", "float32", [n, m]);
  const schedule = g.input("schedule", "float32", [steps, SCHEDULE_COLUMNS.length]),
    step = g.input("step", "int64", []);
  const [rho, ridge, soft] = split(g, gather(g, schedule, step), 0, SCHEDULE_COLUMNS.map(() => 1));
  const fixed = g.input("fixed", "float32", [k, q]);
  const side = {
    y: g.input("y", "float32", [k, p]),
    u: g.input("u", "float32", [k, 1]),
    v: g.input("v", "float32", [1, p]),
  };
  const cross = gemm(g, fixed, w, { transB: which === "A" });
  const next = halfStep(g, fixed, cross, side, { rho, ridge, soft }, shape);
  g.output("step_next", add(g, step, int64(g, 1)));
  g.output("y_next", next.y);
  g.output("u_next", next.u);
  g.output("v_next", next.v);
  g.output("fixed_next", next.fixed);
  return g;
}
