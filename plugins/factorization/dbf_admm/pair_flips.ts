/**
 * Greedy flips of one sign or a pair of signs per column, all columns at once: leaves the local minima of single flips, and
 * needs no sequence over rows, which suits GPUs.
 *
 * @module
 */
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import {
  abs,
  add,
  and,
  argMax,
  gather,
  gatherElements,
  int64,
  less,
  loop,
  mod,
  mul,
  neg,
  or,
  reshape,
  scatterElements,
  sub,
  topK,
  transpose,
  where,
} from "../../../pipeline/graph/ops.ts";
import { signProblem, signRows } from "./sign_problem.ts";
import { signOf } from "./svid.ts";

/** Flips tried first in a pass: the cheapest, the second cheapest, … */
const CANDIDATES = 16;
/** Beyond any energy. */
const FAR = 1e30;

/**
 * Energies are quarters of the change of ‖W̃ − Ŵ‖²: of one flip E_i = G_ii b² − B̃_i R_i with B̃ = B ⊙ b, R = G·B̃ − C, and of a pair
 * E_i + E_j + 2 B̃_i B̃_j G_ij. Every pass takes one candidate i per column, finds its best partner j, and flips i and j, i
 * alone, or nothing, whichever lowers the energy most. Never raises the error.
 *
 * Inputs and outputs are those of {@linkcode signDescentGraph}.
 *
 * @param passes Passes over all columns.
 */
export function pairFlipsGraph(n: number, m: number, k: number, side: "A" | "B", passes: number): Graph {
  const g = createGraph("pair_flips");
  const problem = signProblem(g, n, m, k, side), { p, scale } = problem;
  const { gram, start, residual } = signRows(g, problem, side);
  const magnitude = reshape(g, abs(g, scale), [p, 1]);
  const diagonal = gatherElements(
    g,
    gram,
    reshape(g, g.constant(BigInt64Array.from({ length: k }, (_, i) => BigInt(i))), [k, 1]),
    1,
  );
  const own = mul(g, reshape(g, diagonal, [1, k]), mul(g, magnitude, magnitude)); // G_ii b²
  const candidates = Math.min(CANDIDATES, k);

  const body = createGraph("pass", { outer: g });
  const index = body.input("pass_index", "int64", []);
  body.input("pass_go", "bool", []);
  const state = body.input("pass_state", "float32", [p, k]), r = body.input("pass_residual", "float32", [p, k]);
  const energy = sub(body, own, mul(body, state, r));
  const [, ranked] = topK(body, energy, candidates, 1, { largest: false });
  const i = reshape(body, gather(body, ranked, mod(body, index, int64(body, candidates)), 1), [p, 1]);
  const energyI = gatherElements(body, energy, i, 1), stateI = gatherElements(body, state, i, 1);
  const rowsI = gather(body, gram, reshape(body, i, [p]));
  const far = body.constant(new Float32Array(p).fill(FAR), [p, 1]);
  const partner = scatterElements(
    body,
    add(body, energy, mul(body, mul(body, state, rowsI), mul(body, stateI, 2))),
    i,
    far,
    1,
  );
  const j = argMax(body, neg(body, partner), 1, true);
  const energyJ = gatherElements(body, partner, j, 1), stateJ = gatherElements(body, state, j, 1);
  const rowsJ = gather(body, gram, reshape(body, j, [p]));
  // Below by more than rounding, so that no pair flips back and forth.
  const margin = mul(body, gatherElements(body, own, i, 1), -1e-5);
  const both = and(body, less(body, energyJ, 0), less(body, add(body, energyI, energyJ), margin));
  const any = or(body, both, less(body, energyI, margin));
  const changeI = where(body, any, mul(body, stateI, -2), 0), changeJ = where(body, both, mul(body, stateJ, -2), 0);
  const flipped = (x: Value, at: Value, change: Value) => scatterElements(body, x, at, change, 1, "add");
  body.output("pass_go_on", body.constant(Uint8Array.of(1), [], "bool"));
  body.output("pass_state_next", flipped(flipped(state, i, changeI), j, changeJ));
  body.output("pass_residual_next", add(body, r, add(body, mul(body, rowsI, changeI), mul(body, rowsJ, changeJ))));

  const [end] = loop(g, int64(g, passes), [start, residual], body);
  g.output("signs_next", signOf(g, transpose(g, end, [1, 0])));
  g.output("scale_next", abs(g, scale));
  return g;
}
