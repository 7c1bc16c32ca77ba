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
import { factorAdvance, factorFix, factorPull, type Side } from "./native_ops.ts";
import { factorSpd, gramBlocks, solverSpd, type SpdBounds } from "./spd_solve.ts";
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

/** How a half step's passes over `(k, p)` matrices are done. */
interface Passes {
  /** cross + ρ(2z − y). */
  pull(cross: Value, side: Side, rho: Value): Value;
  /** y' = y + α(x − z) and its magnitudes. */
  advance(x: Value, side: Side): Side;
  /** z + s(x − z) with rows of length one. */
  fix(x: Value, side: Side, soft: Value): Value;
}

function nativePasses(g: Graph, { relaxation, powerIterations }: StepShape): Passes {
  return {
    pull: (cross, side, rho) => factorPull(g, cross, side, rho),
    advance: (x, side) => factorAdvance(g, x, side, relaxation, powerIterations),
    fix: (x, side, soft) => factorFix(g, x, side, soft),
  };
}

function standardPasses(g: Graph, { relaxation, powerIterations }: StepShape): Passes {
  // Keyed by Y: the projection z and −U = z − y serve several passes.
  const known = new Map<Value, { readonly z: Value; readonly minusDual: Value }>();
  const projected = ({ y, u, v }: Side, magnitude?: Value) => {
    const z = known.get(y)?.z ?? signed(g, y, magnitude ?? magnitudeOf(g, y), { u, v });
    const found = known.get(y) ?? { z, minusDual: sub(g, z, y) };
    known.set(y, found);
    return found;
  };
  return {
    pull(cross, side, rho) {
      const { z, minusDual } = projected(side);
      return add(g, cross, mul(g, add(g, z, minusDual), rho)); // Z − U = 2z − y
    },
    advance(x, side) {
      const { z, minusDual } = projected(side);
      // αX + (1 − α)Z + U
      const y = relaxation === 1 ? sub(g, x, minusDual) : add(g, side.y, mul(g, sub(g, x, z), relaxation));
      const magnitude = magnitudeOf(g, y);
      const next = { y, ...rankOne(g, magnitude, side.v, powerIterations) };
      projected(next, magnitude);
      return next;
    },
    fix(x, side, soft) {
      const { z } = projected(side);
      const mixed = add(g, z, mul(g, sub(g, x, z), soft));
      return div(g, mixed, max(g, sqrt(g, reduceSumSquare(g, mixed, [1])), TINY));
    },
  };
}

/** Solves for one factor with the other, F `(k, q)` of unit rows, fixed; `cross` is F·W̃ or F·W̃ᵀ, `(k, p)`. */
function halfStep(g: Graph, fixed: Value, cross: Value, side: Side, penalties: Penalties, shape: StepShape): Solved {
  const { rank, innerSteps, bounds } = shape;
  const passes = bounds.native ? nativePasses(g, shape) : standardPasses(g, shape);
  const one = g.constant(Float32Array.of(1), [1]);
  // The first inner step has its own penalty, the others share one.
  const rhos = [penalties.rho, one].slice(0, innerSteps);
  const shifts = rhos.map((rho) => ({
    lambda: add(g, penalties.ridge, rho),
    bounds: rho === one ? { ...bounds, lowest: 1 } : bounds,
  }));
  const p = cross.shape[1] as number;
  const solvers = factorSpd(g, gramBlocks(g, fixed), rank, shifts).map((factor) => solverSpd(g, factor, p));
  let current = side, x: Value | undefined;
  for (let inner = 0; inner < innerSteps; inner++) {
    const which = Math.min(inner, rhos.length - 1);
    x = solvers[which](passes.pull(cross, current, rhos[which]));
    current = passes.advance(x, current);
  }
  return { ...current, fixed: passes.fix(x!, current, penalties.soft) };
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
