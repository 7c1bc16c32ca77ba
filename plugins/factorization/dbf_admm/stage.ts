/**
 * The built-in factorization stage.
 *
 * @module
 */
import { defineStage, type Stage } from "../../../pipeline/stream/stage.ts";
import { estimate } from "./estimate.ts";
import { factorize } from "./factorize.ts";
import { hasNativeOps } from "./native_ops.ts";
import { dbfAdmmOptions, settingsOf } from "./options.ts";
import { weightingOf } from "./weighting.ts";

/** Double binary factorization by ADMM, scale refit and sign coordinate descent (arXiv 2505.11076 and README.md). */
export const dbfAdmm: Stage<"factorization", typeof dbfAdmmOptions> = defineStage({
  kind: "factorization",
  scope: "layer",
  name: "dbf-admm",
  version: "1.2.0",
  description: "W ≈ diag(a)·A·diag(mid)·B·diag(b) with A, B of ±1, by ADMM, exact scales and sign descent.",
  options: dbfAdmmOptions,
  estimate: (layer, options) => estimate(layer, settingsOf(options)),
  async run({ job, weight, importance }, options, { runtime, signal, emit }) {
    const { name, rows, cols, rank, seed } = job;
    if (!Number.isInteger(rank) || rank < 1) {
      throw new RangeError(`Cannot factorize "${name}" with middle dimension ${rank}: it must be a whole number ≥ 1`);
    }
    if (weight.shape.length !== 2 || weight.shape[0] !== rows || weight.shape[1] !== cols) {
      throw new RangeError(`Cannot factorize "${name}" as ${rows}×${cols}: its shape is [${weight.shape.join(", ")}]`);
    }
    return await factorize(
      {
        name,
        rows,
        cols,
        rank,
        seed,
        readRows: (start, end) => weight.readRows(start, end, signal),
        weighting: weightingOf(importance, rows, cols, name),
      },
      settingsOf(options, hasNativeOps(runtime)),
      {
        runtime,
        signal,
        onProgress: (progress) => emit({ type: "stage-progress", stage: "dbf-admm", subject: name, ...progress }),
      },
    );
  },
});

export default dbfAdmm;
