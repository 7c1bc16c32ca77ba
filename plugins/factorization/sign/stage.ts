/**
 * Factorization `sign`.
 *
 * @module
 */
import * as v from "valibot";
import { f32ToF16Bits } from "../../../pipeline/checkpoint/half.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { div, max, min, mul, reduceSum, reduceSumSquare, sub } from "../../../pipeline/graph/ops.ts";
import type { Graph } from "../../../pipeline/graph/types.ts";
import { signStorage } from "../../../pipeline/plan/storage.ts";
import {
  defineStage,
  type SignFactors,
  type Stage,
  type StageContext,
  type StageIO,
} from "../../../pipeline/stream/stage.ts";
import { packGraph } from "../dbf_admm/bits.ts";
import { openPool } from "../dbf_admm/sessions.ts";
import { magnitudeOf, rankOne, signOf } from "../dbf_admm/svid.ts";
import { weigh } from "../dbf_admm/weigh.ts";
import { weightingOf } from "../dbf_admm/weighting.ts";
import { checkWeight } from "../nbits/options.ts";

const options = v.strictObject({
  /** Power iterations of the rank-1 fit of magnitudes. */
  iterations: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(1000)), 30),
  /** Keep the weights over their magnitudes as latents, for a distillation. */
  latents: v.optional(v.boolean(), true),
});

/** Largest latent magnitude, far beyond what tuning can flip and well inside float16. */
const MOST_LATENT = 1e4;

/**
 * Input `w` `(rows, cols)`. Outputs `signs` (±1) and `latents` = w over its rank-1 magnitude, both `(rows, cols)`, `u` `(rows, 1)` and `v` `(1, cols)`
 * with w ≈ sign(w) ⊙ u·v, and `error` = ‖w − sign(w) ⊙ u·v‖².
 */
export function signGraph(rows: number, cols: number, iterations: number): Graph {
  const g = createGraph("sign_value");
  const w = g.input("w", "float32", [rows, cols]);
  const magnitude = magnitudeOf(g, w);
  const start = g.constant(new Float32Array(cols).fill(1 / Math.sqrt(cols)), [1, cols]);
  const fit = rankOne(g, magnitude, start, iterations);
  const rank = mul(g, fit.u, fit.v);
  const signs = signOf(g, w), error = sub(g, magnitude, rank);
  g.output("signs", signs);
  g.output("latents", mul(g, signs, min(g, div(g, magnitude, max(g, rank, 1e-20)), MOST_LATENT)));
  g.output("u", fit.u);
  g.output("v", fit.v);
  g.output("error", reduceSum(g, reduceSumSquare(g, error, [1]), [0, 1], false));
  return g;
}

async function factorizeSigns(
  input: StageIO["factorization"]["input"],
  { iterations, latents }: v.InferOutput<typeof options>,
  { runtime, signal }: StageContext,
): Promise<SignFactors> {
  checkWeight(input);
  const { job: { name, rows, cols }, weight, importance } = input;
  const weighting = weightingOf(importance, rows, cols, name);
  await using pool = openPool(runtime, `sign ${rows}x${cols} ${iterations}`, false);
  const readRows = (start: number, end: number) => weight.readRows(start, end, signal);
  const { w, factor, meanSquare } = await weigh({ name, rows, cols, readRows, weighting }, pool, runtime);
  using _weighted = w;
  const found = await pool.run("fit", () => signGraph(rows, cols, iterations), { w });
  try {
    const { bits } = await pool.run("pack", () => packGraph(rows, cols), { signs: found.signs });
    const bytes = await bits.read() as Uint8Array;
    bits[Symbol.dispose]();
    const u = await found.u.read() as Float32Array, values = await found.v.read() as Float32Array;
    const error = (await found.error.read() as Float32Array)[0];
    return {
      kind: "sign",
      S: { rows, cols, words: new Uint32Array(bytes.slice().buffer) },
      a: u.map((value, i) => value * factor / weighting.row[i]),
      b: values.map((value, j) => value / weighting.col[j]),
      weightedError: meanSquare > 0 ? error / (meanSquare * rows * cols) : 0,
      ...(latents && { latents: { S: f32ToF16Bits(await found.latents.read() as Float32Array) } }),
    };
  } finally {
    for (const tensor of Object.values(found)) tensor[Symbol.dispose]();
  }
}

/**
 * One sign a weight with rank-1 magnitudes, W ≈ diag(a)·sign(W)·diag(b): the start of OneBit (Xu et al., arXiv 2402.11295), which
 * then distils; here `logits` does, signs included.
 */
export const signValue: Stage<"factorization", typeof options> = defineStage({
  kind: "factorization",
  scope: "layer",
  name: "sign",
  version: "1.0.0",
  description: "One sign a weight and two scale vectors: W ≈ diag(a)·sign(W)·diag(b).",
  options,
  stores: signStorage,
  estimate: ({ rows, cols }, { iterations }) => ({
    peakBytes: 60_000_000 + 4 * 8 * rows * cols,
    flops: (4 * iterations + 10) * rows * cols,
  }),
  run: factorizeSigns,
});
