import { assertAlmostEquals, assertEquals, assertLess } from "@std/assert";
import * as v from "valibot";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { f16BitsToF32 } from "../../../pipeline/checkpoint/half.ts";
import { factorsOfKind } from "../../../pipeline/stream/factors.ts";
import type { LayerImportance, StageContext } from "../../../pipeline/stream/stage.ts";
import { signValue } from "../../../plugins/factorization/sign/stage.ts";
import { at, type Matrix, randomMatrix } from "./dbf_admm/twins.ts";
import { fixedJob, memoryHandle } from "./memory_handle.ts";

const runtime = await openRuntime({ threads: 1 });
const context: StageContext = { runtime, signal: new AbortController().signal, scratch: "", emit: () => {} };

/** Scales of the best weighted rank-1 fit of |W|, in f64: a_i = Σ_j |w|·b·d / Σ_j b²·d, and so on in turns. */
function twin(w: Matrix, { input, output }: LayerImportance): { readonly a: Float64Array; readonly b: Float64Array } {
  const a = new Float64Array(w.rows).fill(1), b = new Float64Array(w.cols).fill(1);
  for (let turn = 0; turn < 200; turn++) {
    for (let i = 0; i < w.rows; i++) {
      let top = 0, bottom = 0;
      for (let j = 0; j < w.cols; j++) {
        top += Math.abs(at(w, i, j)) * b[j] * input[j];
        bottom += b[j] ** 2 * input[j];
      }
      a[i] = top / bottom;
    }
    for (let j = 0; j < w.cols; j++) {
      let top = 0, bottom = 0;
      for (let i = 0; i < w.rows; i++) {
        top += Math.abs(at(w, i, j)) * a[i] * output[i];
        bottom += a[i] ** 2 * output[i];
      }
      b[j] = top / bottom;
    }
  }
  return { a, b };
}

Deno.test("sign keeps every sign and fits magnitudes as alternating least squares in f64 do", async () => {
  for (const [rows, cols] of [[1, 40], [13, 37], [40, 1], [33, 65]]) {
    const w = randomMatrix(rows, cols, rows + cols);
    const importance = {
      input: Float32Array.from({ length: cols }, (_, j) => 0.2 + j % 5),
      output: Float32Array.from({ length: rows }, (_, i) => 1 + i % 3),
    };
    const input = { job: fixedJob("w", w), weight: memoryHandle("w", w), importance };
    const made = factorsOfKind("w", await signValue.run(input, v.parse(signValue.options, {}), context), "sign");
    const { a, b } = twin(w, importance);
    const width = Math.ceil(cols / 32), latents = f16BitsToF32(made.latents!.S);
    let lost = 0, all = 0;
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < cols; j++) {
        const sign = made.S.words[i * width + (j >> 5)] >>> (j & 31) & 1 ? 1 : -1;
        assertEquals(sign, at(w, i, j) >= 0 ? 1 : -1);
        const magnitude = made.a[i] * made.b[j], expected = a[i] * b[j];
        assertAlmostEquals(magnitude, expected, 1e-4 * expected);
        assertLess(
          Math.abs(latents[i * cols + j] - at(w, i, j) / magnitude),
          2e-3 * Math.abs(at(w, i, j) / magnitude) + 1e-6,
        );
        const weight = importance.input[j] * importance.output[i];
        lost += weight * (at(w, i, j) - sign * expected) ** 2;
        all += weight * at(w, i, j) ** 2;
      }
    }
    assertAlmostEquals(made.weightedError, lost / all, 1e-4 * lost / all + 1e-7);
  }
});
