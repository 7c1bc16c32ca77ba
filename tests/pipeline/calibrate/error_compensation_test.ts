import { assert } from "@std/assert";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { correctionGraph } from "../../../pipeline/calibrate/error_compensation.ts";
import { readFloats } from "../../../pipeline/calibrate/engine.ts";
import { encodeModel } from "../../../pipeline/graph/encode.ts";
import { relativeError } from "./golden.ts";

/** X of X·M = R by Gauss–Jordan in f64; rows of X and R are `count`. */
function solveRight(matrix: Float64Array, right: Float64Array, size: number, count: number): Float64Array {
  const m = matrix.slice(), x = right.slice();
  for (let pivot = 0; pivot < size; pivot++) {
    const scale = 1 / m[pivot * size + pivot];
    // column operations, as X multiplies from the left
    for (let row = 0; row < size; row++) m[row * size + pivot] *= scale;
    for (let row = 0; row < count; row++) x[row * size + pivot] *= scale;
    for (let col = 0; col < size; col++) {
      const factor = m[pivot * size + col];
      if (col === pivot || factor === 0) continue;
      for (let row = 0; row < size; row++) m[row * size + col] -= factor * m[row * size + pivot];
      for (let row = 0; row < count; row++) x[row * size + col] -= factor * x[row * size + pivot];
    }
  }
  return x;
}

Deno.test("correctionGraph() is W + α·W·C·(H + λ·diag H)⁻¹ as an f64 twin computes it", async () => {
  const rows = 5, cols = 70, tokens = 200, strength = 0.5, ridge = 0.01;
  let state = 3;
  const random = () => ((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32) - 0.5;
  const weight = Float32Array.from({ length: rows * cols }, random);
  const exact = Float64Array.from({ length: tokens * cols }, (_, at) => random() * (at % cols === 3 ? 50 : 1));
  const actual = exact.map((value) => value + 0.3 * random());
  const covariance = new Float64Array(cols * cols), cross = new Float64Array(cols * cols);
  for (let t = 0; t < tokens; t++) {
    for (let i = 0; i < cols; i++) {
      for (let j = 0; j < cols; j++) {
        covariance[i * cols + j] += actual[t * cols + i] * actual[t * cols + j];
        cross[i * cols + j] += (exact[t * cols + i] - actual[t * cols + i]) * actual[t * cols + j];
      }
    }
  }
  const regular = covariance.map((value, at) => at % (cols + 1) === 0 ? value * (1 + ridge) : value);
  const pull = new Float64Array(rows * cols);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      for (let inner = 0; inner < cols; inner++) {
        pull[row * cols + col] += weight[row * cols + inner] * cross[inner * cols + col];
      }
    }
  }
  const solved = solveRight(regular, pull, cols, rows);
  const expected = Float64Array.from(weight, (value, at) => value + strength * solved[at]);
  await using runtime = await openRuntime({ threads: 1 });
  await using session = await runtime.load(encodeModel(correctionGraph(rows, cols, { strength, ridge })));
  const square = (values: Float64Array) => runtime.tensor("float32", Float32Array.from(values), [cols, cols]);
  const { corrected } = await session.run({
    weight: runtime.tensor("float32", weight, [rows, cols]),
    covariance: square(covariance),
    cross: square(cross),
  });
  const error = relativeError(await readFloats(corrected), expected);
  assert(error < 1e-4, `off by ${error}`);
});
