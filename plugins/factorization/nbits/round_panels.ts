/**
 * Rounding of a weight in panels of rows, for methods that see each group alone.
 *
 * @module
 */
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { cast, mul, pad, reduceSum, reshape, sub } from "../../../pipeline/graph/ops.ts";
import { storedBits } from "../../../pipeline/stream/factors.ts";
import { groupsOf, packRows } from "../../../pipeline/stream/nbits_layout.ts";
import type { NbitsFactors, StageContext, StageIO } from "../../../pipeline/stream/stage.ts";
import { openPool } from "../dbf_admm/sessions.ts";
import { weightingOf } from "../dbf_admm/weighting.ts";
import { codesOf, type Grid, valuesOf } from "./grid.ts";
import { checkFinite, checkWeight, type NbitsOptions, PANEL_ELEMENTS } from "./options.ts";

/**
 * Builds the grids of all groups.
 *
 * @param w `(rows, groups, group)`; columns beyond the weight's are 0.
 * @param d Importance of input features, `(1, groups, group)`; 0 in columns beyond the weight's.
 */
export type GridBuilder = (g: Graph, w: Value, d: Value) => Grid;

/**
 * Inputs `w` `(rows, cols)`, `d` `(1, cols)`, `out` `(rows, 1)` (importance). Outputs `codes` `(rows, groups, group)` u8, `scales` and `zeros` (u8)
 * `(rows, groups, 1)`, `lost` = Σ out·d·(w − ŵ)² and `all` = Σ out·d·w².
 */
export function roundingGraph(
  rows: number,
  cols: number,
  { bits, group }: Pick<NbitsOptions, "bits" | "group">,
  build: GridBuilder,
): Graph {
  const g = createGraph("round");
  const groups = groupsOf(cols, group), more = groups * group - cols;
  const grouped = (name: string, height: number) => {
    const flat = g.input(name, "float32", [height, cols]);
    return reshape(g, more === 0 ? flat : pad(g, flat, [0, 0, 0, more]), [height, groups, group]);
  };
  const w = grouped("w", rows), d = grouped("d", 1);
  const out = reshape(g, g.input("out", "float32", [rows, 1]), [rows, 1, 1]);
  const grid = build(g, w, d);
  const codes = codesOf(g, w, grid, bits);
  const error = sub(g, w, valuesOf(g, codes, grid));
  const weighted = (x: Value) =>
    reduceSum(g, reduceSum(g, mul(g, mul(g, mul(g, x, x), d), out), [1, 2], false), [0], false);
  g.output("codes", cast(g, codes, "uint8"));
  g.output("scales", grid.scale);
  g.output("zeros", cast(g, grid.zero, "uint8"));
  g.output("lost", weighted(error));
  g.output("all", weighted(w));
  return g;
}

/**
 * Rounds a weight.
 *
 * @param stage Name and options, for events and shared sessions.
 * @throws {RangeError} when the weight has another shape, or entries that are not finite.
 */
export async function roundPanels(
  input: StageIO["factorization"]["input"],
  options: NbitsOptions,
  { runtime, signal, emit }: StageContext,
  stage: string,
  build: GridBuilder,
): Promise<NbitsFactors> {
  checkWeight(input);
  const { job: { name, rows, cols }, weight, importance } = input;
  const { bits, group } = options;
  const { row, col } = weightingOf(importance, rows, cols, name);
  const groups = groupsOf(cols, group), width = storedBits(bits), rowBytes = groups * group * width / 8;
  const codes = new Uint8Array(rows * rowBytes), zeros = new Uint8Array(rows * groups);
  const scales = new Float32Array(rows * groups);
  const step = Math.max(1, Math.min(rows, Math.floor(PANEL_ELEMENTS / cols)));
  await using pool = openPool(runtime, `${stage} ${cols} ${JSON.stringify(options)}`, rows * cols <= PANEL_ELEMENTS);
  using d = runtime.tensor("float32", col.map((value) => value * value), [1, cols]);
  let lost = 0, all = 0;
  for (let start = 0; start < rows; start += step) {
    signal.throwIfAborted();
    const count = Math.min(step, rows - start);
    using w = runtime.tensor("float32", await weight.readRows(start, start + count, signal), [count, cols]);
    using out = runtime.tensor("float32", row.slice(start, start + count).map((value) => value * value), [count, 1]);
    const found = await pool.run(`${count}`, () => roundingGraph(count, cols, options, build), { w, d, out });
    lost += (await found.lost.read() as Float32Array)[0];
    all += (await found.all.read() as Float32Array)[0];
    checkFinite(name, all);
    const unpacked = await found.codes.read() as Uint8Array;
    codes.set(packRows(unpacked, count * groups, group, width), start * rowBytes);
    scales.set(await found.scales.read() as Float32Array, start * groups);
    zeros.set(await found.zeros.read() as Uint8Array, start * groups);
    for (const tensor of Object.values(found)) tensor[Symbol.dispose]();
    emit({ type: "stage-progress", stage, subject: name, done: start + count, total: rows });
  }
  return { kind: "nbits", rows, cols, bits, group, codes, scales, zeros, weightedError: all > 0 ? lost / all : 0 };
}
