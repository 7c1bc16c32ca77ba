/**
 * Rounding of one group of columns with error feedback.
 *
 * @module
 */
import { createGraph } from "../../../pipeline/graph/graph.ts";
import {
  add,
  cast,
  concat,
  gather,
  matMul,
  mul,
  reduceSum,
  reshape,
  scan,
  slice,
  sub,
  transpose,
  unsqueeze,
} from "../../../pipeline/graph/ops.ts";
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import { clippedGrid, codesOf, valuesOf } from "./grid.ts";
import type { NbitsOptions } from "./options.ts";

/** One value a row, and what it is rounded to. */
interface Rounded {
  readonly codes: Value;
  readonly value: Value;
}

/**
 * Takes the columns of a group in turn: each becomes what `round` makes of it, and its error is added to those after it.
 *
 * @param base `(group, rows)`: columns with the errors of earlier groups added.
 * @param w The same without.
 * @param within `(group, group)`: row j holds what the error of column j adds to every column.
 * @param name Starts the names of the body's values, which must be unique.
 * @param round In the body's graph, values `(rows,)`.
 * @returns Codes and errors, `(group, rows)`.
 */
function takeColumns(
  g: Graph,
  name: string,
  { base, w, within }: { readonly base: Value; readonly w: Value; readonly within: Value },
  round: (body: Graph, value: Value) => Rounded,
): { readonly codes: Value; readonly errors: Value } {
  const [group, rows] = w.shape as readonly number[];
  const body = createGraph(`${name}_column`, { outer: g });
  const state = body.input(`${name}_base`, "float32", [group, rows]);
  const index = body.input(`${name}_index`, "int64", []);
  const original = body.input(`${name}_original`, "float32", [rows]);
  const spread = body.input(`${name}_spread`, "float32", [group]);
  const { codes, value } = round(body, gather(body, state, index));
  const error = sub(body, original, value);
  body.output(
    `${name}_base_next`,
    add(body, state, mul(body, unsqueeze(body, spread, [1]), unsqueeze(body, error, [0]))),
  );
  body.output(`${name}_codes`, codes);
  body.output(`${name}_error`, error);
  const order = g.constant(BigInt64Array.from({ length: group }, (_, at) => BigInt(at)), [group]);
  const [, rounded, errors] = scan(g, [base], [order, w, within], body);
  return { codes: rounded, errors };
}

/**
 * Columns `start … start + group` of W; everything is transposed, so that columns lie together. Inputs `w` `(group, rows)`, `errors`
 * `(start, rows)` of all columns before (absent for the first), `feedback` `(group, start + group)` (rows of {@linkcode panelGraph}), `d`
 * `(group, 1)` and `out` `(1, rows)` (importance). Outputs `codes` `(rows, group)` u8, `scale` and `zero` (u8) `(1, rows)`,
 * `errors_next` `(start + group, rows)`, `lost` and `all` as in `roundingGraph`.
 */
export function gptqGroupGraph(rows: number, start: number, options: NbitsOptions, clipSteps: number): Graph {
  const { bits, group } = options;
  const g = createGraph("gptq_group");
  const w = g.input("w", "float32", [group, rows]);
  const feedback = g.input("feedback", "float32", [group, start + group]);
  const d = g.input("d", "float32", [group, 1]), out = g.input("out", "float32", [1, rows]);
  const before = start === 0 ? undefined : g.input("errors", "float32", [start, rows]);
  const base = before === undefined ? w : add(g, w, matMul(g, slice(g, feedback, 1, 0, start), before));
  const columns = { base, w, within: transpose(g, slice(g, feedback, 1, start, start + group), [1, 0]) };

  // What the columns would become if nothing of this group were rounded: the range is chosen for these values.
  const free = takeColumns(g, "free", columns, (_, value) => ({ codes: value, value })).codes;
  const grid = clippedGrid(g, start === 0 ? w : free, d, 0, options, clipSteps);
  const { codes, errors } = takeColumns(g, "rounded", columns, (body, value) => {
    const own = { scale: reshape(body, grid.scale, [rows]), zero: reshape(body, grid.zero, [rows]) };
    const codes = codesOf(body, value, own, bits);
    return { codes, value: valuesOf(body, codes, own) };
  });

  const weighted = (x: Value) =>
    reduceSum(g, reduceSum(g, mul(g, mul(g, mul(g, x, x), d), out), [1], false), [0], false);
  g.output("codes", transpose(g, cast(g, codes, "uint8"), [1, 0]));
  g.output("scale", grid.scale);
  g.output("zero", cast(g, grid.zero, "uint8"));
  g.output("errors_next", before === undefined ? errors : concat(g, [before, errors], 0));
  g.output("lost", weighted(errors));
  g.output("all", weighted(w));
  return g;
}
