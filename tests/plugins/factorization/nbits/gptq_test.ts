import { assertAlmostEquals, assertEquals, assertLess, assertRejects } from "@std/assert";
import * as v from "valibot";
import { openRuntime } from "../../../../kernels/runtime/open.ts";
import { factorsOfKind } from "../../../../pipeline/stream/factors.ts";
import type { LayerImportance, NbitsFactors, StageContext } from "../../../../pipeline/stream/stage.ts";
import { openPool } from "../../../../plugins/factorization/dbf_admm/sessions.ts";
import { errorFeedback } from "../../../../plugins/factorization/nbits/error_feedback.ts";
import { gptq } from "../../../../plugins/factorization/nbits/gptq.ts";
import { roundToNearest } from "../../../../plugins/factorization/nbits/round_to_nearest.ts";
import { at, type Matrix, matrix, product, randomMatrix, transposed } from "../dbf_admm/twins.ts";
import { fixedJob, memoryHandle } from "../memory_handle.ts";
import { differingShare, outputError, restoredWeight, twinGptq } from "./twins.ts";

const runtime = await openRuntime({ threads: 1 });
const context: StageContext = { runtime, signal: new AbortController().signal, scratch: "", emit: () => {} };

/** Σ x xᵀ of inputs that share a few directions. */
function correlated(cols: number, seed: number): Matrix {
  const shared = product(randomMatrix(3 * cols, 4, seed), randomMatrix(4, cols, seed + 1));
  const own = randomMatrix(3 * cols, cols, seed + 2);
  const x = matrix(3 * cols, cols, (i, j) => at(shared, i, j) + 0.5 * at(own, i, j));
  return product(transposed(x), x);
}

async function run(
  w: Matrix,
  options: Record<string, unknown>,
  given: { readonly moment?: Matrix; readonly importance?: LayerImportance },
): Promise<NbitsFactors> {
  using inputMoment = given.moment && runtime.tensor("float32", Float32Array.from(given.moment.data), [w.cols, w.cols]);
  const input = { job: fixedJob("w", w), weight: memoryHandle("w", w), importance: given.importance, inputMoment };
  return factorsOfKind("w", await gptq.run(input, v.parse(gptq.options, options), context), "nbits");
}

Deno.test("gptq rounds as an f64 twin with the inverse's Cholesky factor does, and beats rounding by far", async () => {
  for (const [rows, cols, group, bits] of [[5, 64, 16, 2], [1, 48, 16, 4], [9, 70, 32, 3]]) {
    const w = randomMatrix(rows, cols, rows), moment = correlated(cols, cols);
    const settings = { bits, group, ridge: 0.01, clipSteps: 6 };
    const made = restoredWeight(await run(w, settings, { moment }));
    const twin = twinGptq(w, moment, settings, new Array(cols).fill(1));
    // A rounding that goes the other way in f32 would change what later columns of its row get; here none does.
    const share = differingShare(made, twin, 1e-3);
    assertLess(share, 0.01, `${rows}x${cols}: ${share}`);
    const error = outputError(w, made, moment), expected = outputError(w, twin, moment);
    assertLess(Math.abs(error / expected - 1), 0.01, `${rows}x${cols}: ${error}, twin ${expected}`);
    const plain = factorsOfKind(
      "w",
      await roundToNearest.run(
        { job: fixedJob("w", w), weight: memoryHandle("w", w), importance: undefined },
        v.parse(roundToNearest.options, { bits, group, clipSteps: 6 }),
        context,
      ),
      "nbits",
    );
    assertLess(error, 0.6 * outputError(w, restoredWeight(plain), moment), `${rows}x${cols}`);
  }
});

Deno.test("errorFeedback() gives M with (I + M)·D·(I + M)ᵀ equal to the damped moment to 1e-4", async () => {
  const cols = 40, width = 16, moment = correlated(cols, 3), size = 48;
  await using pool = openPool(runtime, "feedback test", false);
  using tensor = runtime.tensor("float32", Float32Array.from(moment.data), [cols, cols]);
  const panels = await errorFeedback(pool, tensor, width, 0.02);
  const M = new Float64Array(size * size);
  for (const [index, panel] of panels.entries()) {
    assertEquals(panel.shape, [width, (index + 1) * width]);
    const rows = await panel.read() as Float32Array;
    rows.forEach((value, place) => {
      const end = (index + 1) * width, k = index * width + Math.floor(place / end);
      M[(place % end) * size + k] = value;
    });
    panel[Symbol.dispose]();
  }
  let mean = 0;
  for (let i = 0; i < cols; i++) mean += at(moment, i, i) / cols;
  const A = matrix(size, size, (i, j) => (i < cols && j < cols ? at(moment, i, j) / mean : 0) + (i === j ? 0.02 : 0));
  // (I + M)⁻¹·A must be lower triangular; solve from the last column on.
  const unit = matrix(size, size, (i, j) => i === j ? 1 : M[i * size + j]);
  for (let i = 0; i < size; i++) for (let j = 0; j <= i; j++) assertEquals(M[i * size + j], 0, `${i} ${j}`);
  const d = new Float64Array(size);
  for (let k = size - 1; k >= 0; k--) {
    d[k] = at(A, k, k);
    for (let l = k + 1; l < size; l++) d[k] -= at(unit, k, l) ** 2 * d[l];
  }
  const rebuilt = product(matrix(size, size, (i, j) => at(unit, i, j) * d[j]), transposed(unit));
  for (let place = 0; place < size * size; place++) assertAlmostEquals(rebuilt.data[place], A.data[place], 1e-4);
});

Deno.test("gptq without a moment is rounding with ranges chosen by diagonal importance", async () => {
  const w = randomMatrix(6, 64, 4);
  const importance = {
    input: Float32Array.from({ length: 64 }, (_, j) => 0.1 + j % 5),
    output: new Float32Array(6).fill(1),
  };
  const made = await run(w, { bits: 3, group: 32, clipSteps: 8 }, { importance });
  const input = { job: fixedJob("w", w), weight: memoryHandle("w", w), importance };
  const rounded = await roundToNearest.run(
    input,
    v.parse(roundToNearest.options, { bits: 3, group: 32, clipSteps: 8 }),
    context,
  );
  assertAlmostEquals(made.weightedError, rounded.weightedError, 1e-5);
  assertEquals(made.codes, factorsOfKind("w", rounded, "nbits").codes);
});

Deno.test("gptq refuses a moment of another size by name", async () => {
  const w = randomMatrix(4, 32, 1);
  using inputMoment = runtime.tensor("float32", new Float32Array(9), [3, 3]);
  const input = { job: fixedJob("w", w), weight: memoryHandle("w", w), importance: undefined, inputMoment };
  await assertRejects(
    () => gptq.run(input, v.parse(gptq.options, { group: 16 }), context),
    RangeError,
    '"w" as its input moment must be 32×32',
  );
});
