/**
 * The loss of a layer over its middle dimension, from a few measurements.
 *
 * @module
 */

/** One measurement. */
export interface LossPoint {
  /** Middle dimension. */
  readonly rank: number;
  /** Absolute weighted error. */
  readonly loss: number;
}

/**
 * ln(loss) as a piecewise linear function through the lower convex hull of the points, so that the loss itself falls with every
 * channel by less than with the one before: errors of factorizations fall like exp(−c·bits), ever slower. Beyond the last
 * point the last slope continues.
 *
 * @param points At least two, ranks rising; losses ≥ 0.
 * @returns The loss at a middle dimension.
 *
 * @example
 * ```ts
 * import { assertAlmostEquals } from "@std/assert";
 * import { lossCurve } from "./loss_curve.ts";
 *
 * const loss = lossCurve([{ rank: 0, loss: 100 }, { rank: 10, loss: 10 }, { rank: 20, loss: 5 }]);
 * assertAlmostEquals(loss(5), Math.sqrt(1000));
 * assertAlmostEquals(loss(30), 2.5);
 * ```
 */
export function lossCurve(points: readonly LossPoint[]): (rank: number) => number {
  if (points.some(({ loss }) => loss === 0)) return () => 0;
  const hull: { readonly rank: number; readonly log: number }[] = [];
  const slope = (x: typeof hull[number], y: typeof hull[number]) => (y.log - x.log) / (y.rank - x.rank);
  let log = Infinity;
  for (const { rank, loss } of points) {
    // A measurement above an earlier one is noise of a short run.
    log = Math.min(log, Math.log(loss));
    const point = { rank, log };
    while (hull.length >= 2 && slope(hull.at(-2)!, hull.at(-1)!) >= slope(hull.at(-1)!, point)) hull.pop();
    hull.push(point);
  }
  return (rank) => {
    let i = 1;
    while (i < hull.length - 1 && rank > hull[i].rank) i++;
    return Math.exp(hull[i].log + slope(hull[i - 1], hull[i]) * (rank - hull[i].rank));
  };
}
