/**
 * Factorization `gptq`.
 *
 * @module
 */
import * as v from "valibot";
import type { Tensor } from "../../../kernels/runtime/types.ts";
import { storedBits } from "../../../pipeline/stream/factors.ts";
import { groupsOf, packRows } from "../../../pipeline/stream/nbits_layout.ts";
import {
  defineStage,
  type NbitsFactors,
  type Stage,
  type StageContext,
  type StageIO,
} from "../../../pipeline/stream/stage.ts";
import { openPool } from "../dbf_admm/sessions.ts";
import { weightingOf } from "../dbf_admm/weighting.ts";
import { errorFeedback } from "./error_feedback.ts";
import { gptqGroupGraph } from "./gptq_group.ts";
import { checkFinite, checkWeight, nbitsEntries, nbitsStores, PANEL_ELEMENTS, roundingEstimate } from "./options.ts";

const options = v.strictObject({
  ...nbitsEntries,
  /** Damping of the second moment, in means of its diagonal. */
  ridge: v.optional(v.pipe(v.number(), v.gtValue(0), v.maxValue(10)), 0.01),
  /** Narrower ranges that are tried for each group; 0 takes the full range. */
  clipSteps: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(100)), 12),
});

type GptqOptions = v.InferOutput<typeof options>;

/** The second moment, or its diagonal as far as importance tells it. */
function momentOf({ job, inputMoment }: StageIO["factorization"]["input"], col: Float32Array, context: StageContext) {
  const { name, cols } = job;
  if (inputMoment === undefined) {
    const diagonal = new Float32Array(cols * cols);
    col.forEach((value, at) => diagonal[at * cols + at] = value * value);
    return context.runtime.tensor("float32", diagonal, [cols, cols]);
  }
  if (String(inputMoment.shape) !== String([cols, cols])) {
    throw new RangeError(
      `Cannot factorize "${name}" as its input moment must be ${cols}×${cols}: its shape is [${inputMoment.shape}]`,
    );
  }
  return inputMoment;
}

/** `(count, cols)` → `(size, count)`, columns beyond `cols` being 0. */
function transposed(values: Float32Array, count: number, cols: number, size: number): Float32Array {
  const result = new Float32Array(size * count);
  for (let row = 0, at = 0; row < count; row++) {
    for (let col = 0; col < cols; col++, at++) result[col * count + row] = values[at];
  }
  return result;
}

async function factorizeGptq(
  input: StageIO["factorization"]["input"],
  settings: GptqOptions,
  context: StageContext,
): Promise<NbitsFactors> {
  checkWeight(input);
  const { job: { name, rows, cols }, weight, importance } = input;
  const { runtime, signal, emit } = context;
  const { bits, group, ridge, clipSteps } = settings;
  const { row, col } = weightingOf(importance, rows, cols, name);
  const groups = groupsOf(cols, group), width = storedBits(bits), groupBytes = group * width / 8;
  const codes = new Uint8Array(rows * groups * groupBytes), zeros = new Uint8Array(rows * groups);
  const scales = new Float32Array(rows * groups);
  const step = Math.max(1, Math.min(rows, Math.floor(PANEL_ELEMENTS / cols)));
  await using pool = openPool(runtime, `gptq ${cols} ${JSON.stringify(settings)}`, rows * cols <= PANEL_ELEMENTS);
  const moment = momentOf(input, col, context);
  const feedback = await errorFeedback(pool, moment, group, ridge);
  if (moment !== input.inputMoment) moment[Symbol.dispose]();
  let lost = 0, all = 0;
  try {
    for (let start = 0; start < rows; start += step) {
      const count = Math.min(step, rows - start);
      const columns = transposed(await weight.readRows(start, start + count, signal), count, cols, groups * group);
      using out = runtime.tensor("float32", row.slice(start, start + count).map((value) => value * value), [1, count]);
      let errors: Tensor | undefined;
      for (let index = 0; index < groups; index++) {
        signal.throwIfAborted();
        const from = index * group;
        const importances = Float32Array.from({ length: group }, (_, at) => (col[from + at] ?? 0) ** 2);
        using w = runtime.tensor("float32", columns.subarray(from * count, (from + group) * count), [group, count]);
        using d = runtime.tensor("float32", importances, [group, 1]);
        const found = await pool.run(
          `${count} from ${from}`,
          () => gptqGroupGraph(count, from, settings, clipSteps),
          { w, d, out, feedback: feedback[index], ...(errors === undefined ? {} : { errors }) },
        );
        errors?.[Symbol.dispose]();
        errors = found.errors_next;
        lost += (await found.lost.read() as Float32Array)[0];
        all += (await found.all.read() as Float32Array)[0];
        checkFinite(name, all);
        const packed = packRows(await found.codes.read() as Uint8Array, count, group, width);
        const scale = await found.scale.read() as Float32Array, zero = await found.zero.read() as Uint8Array;
        for (let at = 0; at < count; at++) {
          const place = (start + at) * groups + index;
          codes.set(packed.subarray(at * groupBytes, (at + 1) * groupBytes), place * groupBytes);
          scales[place] = scale[at];
          zeros[place] = zero[at];
        }
        for (const key of ["codes", "scale", "zero", "lost", "all"]) found[key][Symbol.dispose]();
      }
      errors?.[Symbol.dispose]();
      emit({ type: "stage-progress", stage: "gptq", subject: name, done: start + count, total: rows });
    }
  } finally {
    for (const panel of feedback) panel[Symbol.dispose]();
  }
  return { kind: "nbits", rows, cols, bits, group, codes, scales, zeros, weightedError: all > 0 ? lost / all : 0 };
}

/**
 * GPTQ (Frantar et al., arXiv 2210.17323): columns are rounded one after the other, and each one's error is made up for by those
 * that follow, as the second moment of the layer's inputs says. It comes from a reconstruction stage; without any, only the
 * diagonal importance is known, under which columns are independent: that is rounding with a weighted choice of ranges.
 */
export const gptq: Stage<"factorization", typeof options> = defineStage({
  kind: "factorization",
  scope: "layer",
  name: "gptq",
  version: "1.0.0",
  description: "Columns rounded in turn, later ones making up for earlier errors; with a reconstruction stage.",
  options,
  stores: nbitsStores,
  wantsInputMoment: true,
  estimate(layer, { group, clipSteps }) {
    const { rows, cols } = layer, size = cols + group;
    const { peakBytes, flops } = roundingEstimate(layer, 6, 12 * (1 + clipSteps));
    // The moment, what is left of it twice, and its factor; a factor, its use on each row, and a group's own update.
    return {
      peakBytes: peakBytes + 4 * 4.5 * size * size,
      flops: flops! + size ** 3 / 3 + rows * cols * cols + 2 * rows * cols * group,
    };
  },
  run: factorizeGptq,
});
