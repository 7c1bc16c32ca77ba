/**
 * Reading and weighting a weight in panels of rows, so that it is held twice for a moment and once from then on.
 *
 * @module
 */
import type { Runtime, Tensor } from "../../../kernels/runtime/types.ts";
import type { Graph } from "../../../pipeline/graph/types.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { concat, mul, reduceSum, reduceSumSquare } from "../../../pipeline/graph/ops.ts";
import type { SessionPool } from "./sessions.ts";
import type { Weighting } from "./weighting.ts";

/** Most elements of a panel: 64 MiB in f32. */
export const PANEL_ELEMENTS = 2 ** 24;

/** A weight to read. */
export interface WeightSource {
  /** For errors. */
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  /** Rows `[start, end)`, row-major f32. */
  readRows(start: number, end: number): Promise<Float32Array>;
  readonly weighting: Weighting;
}

/** W̃ = row ⊙ W ⊙ col over `factor`, on the device. */
export interface Weighted {
  /** `(rows, cols)` f32, of a magnitude near one. */
  readonly w: Tensor;
  /** What W̃ was divided by. */
  readonly factor: number;
  /** Σ W̃² / (rows·cols). */
  readonly meanSquare: number;
}

/**
 * Inputs: `w` `(n, m)`, `row` `(n, 1)`, `col` `(1, m)`. Outputs: `weighted` = row ⊙ w ⊙ col, and `squares`, the sum of its squares; NaN and
 * infinity anywhere in `w` make it not finite.
 */
export function weighGraph(rows: number, cols: number): Graph {
  const g = createGraph("weigh");
  const w = g.input("w", "float32", [rows, cols]);
  const row = g.input("row", "float32", [rows, 1]), col = g.input("col", "float32", [1, cols]);
  const weighted = mul(g, mul(g, w, row), col);
  g.output("weighted", weighted);
  g.output("squares", reduceSum(g, reduceSumSquare(g, weighted, [1]), [0]));
  return g;
}

function concatGraph(rows: readonly number[], cols: number): Graph {
  const g = createGraph("concat");
  g.output("w", concat(g, rows.map((count, index) => g.input(`p${index}`, "float32", [count, cols])), 0));
  return g;
}

/** Largest |entry| of the first row that has one; 1 where all are zero. O(cols) but for zero rows. */
function scaleOf(data: Float32Array, cols: number): number {
  for (let start = 0; start < data.length; start += cols) {
    let largest = 0;
    for (let j = start; j < start + cols; j++) {
      const value = Math.abs(data[j]);
      if (!(value <= largest)) largest = value;
    }
    if (largest !== 0) return largest;
  }
  return 0;
}

/**
 * Reads, weighs and normalizes a weight.
 *
 * @throws {RangeError} when it has NaN or infinite entries.
 */
export async function weigh(source: WeightSource, pool: SessionPool, runtime: Runtime): Promise<Weighted> {
  const { name, rows, cols, weighting } = source;
  const step = Math.max(1, Math.min(rows, Math.floor(PANEL_ELEMENTS / cols)));
  using col = runtime.tensor("float32", weighting.col, [1, cols]);
  const panels: Tensor[] = [], counts: number[] = [];
  let factor = 0, total = 0;
  try {
    for (let start = 0; start < rows; start += step) {
      const end = Math.min(rows, start + step);
      const data = await source.readRows(start, end);
      // The first nonzero row sets the scale, so that squares of huge and tiny weights stay in range.
      if (factor === 0) factor = scaleOf(data, cols);
      const scale = weighting.row.slice(start, end).map((value) => value / (factor || 1));
      using w = runtime.tensor("float32", data, [end - start, cols]);
      using row = runtime.tensor("float32", scale, [end - start, 1]);
      const { weighted, squares } = await pool.run(
        `weigh${end - start}`,
        () => weighGraph(end - start, cols),
        { w, row, col },
      );
      panels.push(weighted);
      counts.push(end - start);
      total += (await squares.read() as Float32Array)[0];
      squares[Symbol.dispose]();
      if (!Number.isFinite(total) || !Number.isFinite(factor)) {
        throw new RangeError(
          `Cannot factorize "${name}": rows ${start} to ${end} have NaN, infinite or (beside the first row) enormous entries. ` +
            "Repair the checkpoint or leave the layer dense with --keep",
        );
      }
    }
    const meanSquare = total / (rows * cols);
    if (panels.length === 1) return { w: panels.pop()!, factor: factor || 1, meanSquare };
    const feeds = Object.fromEntries(panels.map((panel, index) => [`p${index}`, panel]));
    const { w } = await pool.run("concat", () => concatGraph(counts, cols), feeds);
    return { w, factor: factor || 1, meanSquare };
  } finally {
    for (const panel of panels) panel[Symbol.dispose]();
    await pool.clear();
  }
}
