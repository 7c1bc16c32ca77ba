import { assert, assertEquals } from "@std/assert";
import { encodeModel } from "../../../../pipeline/graph/encode.ts";
import { createGraph } from "../../../../pipeline/graph/graph.ts";
import { admmHalfGraph, type StepShape } from "../../../../plugins/factorization/dbf_admm/admm_step.ts";
import { packGraph, unpackGraph } from "../../../../plugins/factorization/dbf_admm/bits.ts";
import { pairFlipsGraph } from "../../../../plugins/factorization/dbf_admm/pair_flips.ts";
import { errorGraph, refitGraph } from "../../../../plugins/factorization/dbf_admm/refit.ts";
import { hasNativeOps } from "../../../../plugins/factorization/dbf_admm/native_ops.ts";
import { openPool } from "../../../../plugins/factorization/dbf_admm/sessions.ts";
import { signDescentGraph } from "../../../../plugins/factorization/dbf_admm/sign_descent.ts";
import { signSearchGraph } from "../../../../plugins/factorization/dbf_admm/sign_search.ts";
import {
  factorSpd,
  gramBlocks,
  matrixBlocks,
  solverSpd,
  solveSpd,
} from "../../../../plugins/factorization/dbf_admm/spd_solve.ts";
import { magnitudeOf, rankOne } from "../../../../plugins/factorization/dbf_admm/svid.ts";
import { PANEL_ELEMENTS, weigh, weighGraph } from "../../../../plugins/factorization/dbf_admm/weigh.ts";
import { runGraph, runtime } from "./run_graph.ts";
import { at, largestDifference, type Matrix, matrix, product, randomMatrix, solve, transposed } from "./twins.ts";

const BLOCKS = { leaf: 16, block: 48 };
/** Standard operators, and the native ones where this provider has them. */
const VARIANTS = [BLOCKS, ...hasNativeOps(runtime) ? [{ ...BLOCKS, native: true }] : []];

function signMatrix(rows: number, cols: number, seed: number): Matrix {
  const x = randomMatrix(rows, cols, seed);
  return matrix(rows, cols, (i, j) => at(x, i, j) >= 0 ? 1 : -1);
}

/** Rows of length one, the first `share` of each row's weight on few columns: large eigenvalues, like heavy importance. */
function unitRows(rows: number, cols: number, seed: number): Matrix {
  const signs = signMatrix(rows, cols, seed);
  const weight = Float64Array.from({ length: cols }, (_, j) => 1 / (1 + j) ** 2);
  const total = Math.sqrt(weight.reduce((sum, x) => sum + x * x, 0));
  return matrix(rows, cols, (i, j) => at(signs, i, j) * weight[j] / total);
}

const positive = (rows: number, cols: number, seed: number): Matrix => {
  const x = randomMatrix(rows, cols, seed);
  return matrix(rows, cols, (i, j) => 0.2 + Math.abs(at(x, i, j)));
};

Deno.test("solveSpd and solverSpd equal elimination in f64 to 2e-5 for every size, also with eigenvalues in the dozens", async () => {
  for (const k of [1, 2, 15, 16, 17, 33, 48, 49, 97, 150]) {
    const f = unitRows(k, 40, k), gram = product(f, transposed(f)), lambdas = [0.3, 1.1];
    // Few right sides go by substitution, many by an inverse.
    const sides = { few: randomMatrix(k, 7, k + 1), many: randomMatrix(k, 2 * k, k + 2) };
    for (const blocks of VARIANTS) {
      for (const fromGram of [true, false]) {
        const g = createGraph("solve");
        const source = fromGram
          ? gramBlocks(g, g.input("f", "float32", [k, 40]))
          : matrixBlocks(g, g.input("m", "float32", [k, k]));
        const bounds = { lowest: 0.3, diagonal: 1.001, shift: 1.1, ...blocks };
        const shifts = lambdas.map((_, i) => ({ lambda: g.input(`lambda${i}`, "float32", []), bounds }));
        const few = g.input("few", "float32", [k, 7]), many = g.input("many", "float32", [k, 2 * k]);
        factorSpd(g, source, k, shifts).forEach((factor, i) => {
          g.output(`few_${i}`, solveSpd(g, factor, few));
          g.output(`many_${i}`, solverSpd(g, factor, 2 * k)(many));
        });
        const feeds = { ...(fromGram ? { f } : { m: gram }), lambda0: lambdas[0], lambda1: lambdas[1], ...sides };
        const out = await runGraph(g, feeds);
        for (const [i, lambda] of lambdas.entries()) {
          const system = matrix(k, k, (r, c) => at(gram, r, c) + (r === c ? lambda : 0));
          for (const [name, t] of Object.entries(sides)) {
            const expected = solve(system, t), difference = largestDifference(out[`${name}_${i}`], expected.data);
            const most = 2e-5 * Math.max(1, Math.max(...expected.data.map(Math.abs)));
            assert(difference < most, `k=${k}, ${JSON.stringify(blocks)} ${name} ${i}: ${difference}`);
          }
        }
      }
    }
  }
});

function rankOneTwin(x: Matrix, v: Matrix, iterations: number): { u: Matrix; v: Matrix } {
  const magnitude = matrix(x.rows, x.cols, (i, j) => Math.abs(at(x, i, j)));
  let u = product(magnitude, transposed(v));
  for (let i = 0; i < iterations; i++) {
    const next = product(transposed(u), magnitude);
    const length = Math.hypot(...next.data);
    v = matrix(1, x.cols, (_, j) => next.data[j] / length);
    u = product(magnitude, transposed(v));
  }
  return { u, v };
}

Deno.test("rankOne equals its f64 twin to 1e-5", async () => {
  const x = randomMatrix(29, 43, 3), start = positive(1, 43, 4);
  const g = createGraph("svid");
  const { u, v } = rankOne(g, magnitudeOf(g, g.input("x", "float32", [29, 43])), g.input("v", "float32", [1, 43]), 3);
  g.output("u_out", u);
  g.output("v_out", v);
  const result = await runGraph(g, { x, v: start });
  const expected = rankOneTwin(x, start, 3);
  assert(largestDifference(result.u_out, expected.u.data) < 1e-5 * Math.max(...expected.u.data));
  assert(largestDifference(result.v_out, expected.v.data) < 1e-5);
});

interface Side {
  y: Matrix;
  u: Matrix;
  v: Matrix;
}

/** One half step in f64, written from the algorithm's definition with Z and U apart. */
function halfTwin(fixed: Matrix, cross: Matrix, side: Side, rho: number, ridge: number, soft: number) {
  const k = fixed.rows, p = cross.cols;
  const gram = product(fixed, transposed(fixed));
  const project = ({ y, u, v }: Side) => matrix(k, p, (i, j) => Math.sign(at(y, i, j)) * at(u, i, 0) * at(v, 0, j));
  let current = side, z = project(side), x = z;
  let dual = matrix(k, p, (i, j) => at(side.y, i, j) - at(z, i, j));
  for (const penalty of [rho, 1]) {
    const system = matrix(k, k, (i, j) => at(gram, i, j) + (i === j ? ridge + penalty : 0));
    x = solve(system, matrix(k, p, (i, j) => at(cross, i, j) + penalty * (at(z, i, j) - at(dual, i, j))));
    const y = matrix(k, p, (i, j) => at(x, i, j) + at(dual, i, j));
    current = { y, ...rankOneTwin(y, current.v, 2) };
    z = project(current);
    dual = matrix(k, p, (i, j) => at(y, i, j) - at(z, i, j));
  }
  const mixed = matrix(k, p, (i, j) => at(z, i, j) + soft * (at(x, i, j) - at(z, i, j)));
  const length = Float64Array.from({ length: k }, (_, i) => Math.hypot(...mixed.data.subarray(i * p, (i + 1) * p)));
  return { ...current, fixed: matrix(k, p, (i, j) => at(mixed, i, j) / length[i]) };
}

Deno.test("admmHalfGraph equals its f64 twin to 1e-4", async () => {
  const shapes = [[23, 31, 19], [40, 9, 55], [7, 60, 33], [70, 130, 5]];
  const cases = shapes.flatMap((sizes) => VARIANTS.map((blocks) => ({ sizes, blocks })));
  for (const { sizes: [n, m, k], blocks } of cases) {
    const w = randomMatrix(n, m, n);
    const side = (p: number, seed: number): Side => ({
      y: randomMatrix(k, p, seed),
      u: positive(k, 1, seed + 1),
      v: positive(1, p, seed + 2),
    });
    const a = side(n, 10), b = side(m, 20), fixedB = unitRows(k, m, 30);
    const [rho, ridge, soft] = [0.4, 0.1, 0.25];
    const schedule = matrix(3, 3, (t, column) => t === 1 ? [rho, ridge, soft][column] : 9);
    const shape: StepShape = {
      rows: n,
      cols: m,
      rank: k,
      innerSteps: 2,
      steps: 3,
      powerIterations: 2,
      relaxation: 1,
      bounds: { lowest: 0.4, diagonal: 1.001, shift: 1.2, ...blocks },
    };
    const fixedA = unitRows(k, n, 40);
    for (const which of ["A", "B"] as const) {
      const [state, fixed] = which === "A" ? [a, fixedB] : [b, fixedA];
      const out = await runGraph(admmHalfGraph(shape, which), { w, schedule, step: 1n, fixed, ...state });
      assertEquals(Number(out.step_next[0]), 2);
      const next = halfTwin(fixed, product(fixed, which === "A" ? transposed(w) : w), state, rho, ridge, soft);
      for (const name of ["y", "u", "v", "fixed"] as const) {
        const difference = largestDifference(out[`${name}_next`], next[name].data);
        const scale = Math.max(1, ...next[name].data.map(Math.abs));
        assert(difference < 1e-4 * scale, `${[n, m, k]} ${JSON.stringify(blocks)} ${which} ${name}: ${difference}`);
      }
    }
  }
});

interface Factors {
  A: Matrix;
  B: Matrix;
  a: Matrix;
  mid: Matrix;
  b: Matrix;
}

function factors(n: number, m: number, k: number): Factors {
  return {
    A: signMatrix(k, n, 1),
    B: signMatrix(k, m, 2),
    a: positive(n, 1, 3),
    mid: positive(k, 1, 4),
    b: positive(1, m, 5),
  };
}

function meanSquareResidual(w: Matrix, { A, B, a, mid, b }: Factors): number {
  let sum = 0;
  const x = product(transposed(matrix(A.rows, A.cols, (c, i) => at(A, c, i) * mid.data[c])), B);
  for (let i = 0; i < w.rows; i++) {
    for (let j = 0; j < w.cols; j++) sum += (at(w, i, j) - a.data[i] * at(x, i, j) * b.data[j]) ** 2;
  }
  return sum / w.data.length;
}

Deno.test("errorGraph equals its f64 twin to 1e-5", async () => {
  const w = randomMatrix(21, 34, 9), f = factors(21, 34, 13);
  const { error } = await runGraph(errorGraph(21, 34, 13), { w, ...f });
  const expected = meanSquareResidual(w, f);
  assert(Math.abs(error[0] - expected) < 1e-5 * expected);
});

Deno.test("refitGraph equals its f64 twin to 1e-3 and never raises the error", async () => {
  const cases = [[21, 34, 13], [9, 11, 30], [50, 20, 49]].flatMap((sizes) =>
    VARIANTS.map((blocks) => ({ sizes, blocks }))
  );
  for (const { sizes: [n, m, k], blocks } of cases) {
    const w = randomMatrix(n, m, 9), f = factors(n, m, k);
    const out = await runGraph(refitGraph(n, m, k, blocks), { w, ...f });
    const x = product(transposed(matrix(k, n, (c, i) => at(f.A, c, i) * f.mid.data[c])), f.B);
    const ratio = (count: number, length: number, entry: (r: number, i: number) => [number, number]) =>
      Float64Array.from({ length: count }, (_, r) => {
        let top = 0, bottom = 0;
        for (let i = 0; i < length; i++) {
          const [value, fit] = entry(r, i);
          top += value * fit;
          bottom += fit * fit;
        }
        return top / bottom;
      });
    const a = ratio(n, m, (i, j) => [at(w, i, j), at(x, i, j) * f.b.data[j]]);
    const b = ratio(m, n, (j, i) => [at(w, i, j), at(x, i, j) * a[i]]);
    assert(largestDifference(out.a_next, a) < 1e-4 * Math.max(...a.map(Math.abs)), "a");
    assert(largestDifference(out.b_next, b) < 1e-4 * Math.max(...b.map(Math.abs)), "b");
    const p = matrix(k, n, (c, i) => at(f.A, c, i) * a[i]), q = matrix(k, m, (c, j) => at(f.B, c, j) * b[j]);
    const pp = product(p, transposed(p)), qq = product(q, transposed(q)), pw = product(p, w);
    const scale = at(pp, 0, 0) * at(qq, 0, 0);
    const h = matrix(k, k, (c, d) => at(pp, c, d) * at(qq, c, d) / scale);
    const right = matrix(k, 1, (c) => {
      let sum = 0;
      for (let j = 0; j < m; j++) sum += at(pw, c, j) * at(q, c, j);
      for (let d = 0; d < k; d++) sum -= scale * at(h, c, d) * f.mid.data[d];
      return sum / scale;
    });
    const step = solve(matrix(k, k, (c, d) => at(h, c, d) + (c === d ? 3e-3 : 0)), right);
    const mid = f.mid.data.map((value, c) => value + step.data[c]);
    const largest = Math.max(...mid.map(Math.abs));
    assert(largestDifference(out.mid_next, mid) < 1e-3 * largest, `mid ${largestDifference(out.mid_next, mid)}`);
    const refitted: Factors = {
      ...f,
      a: matrix(n, 1, (i) => out.a_next[i]),
      b: matrix(1, m, (_, j) => out.b_next[j]),
      mid: matrix(k, 1, (c) => out.mid_next[c]),
    };
    assert(meanSquareResidual(w, refitted) <= meanSquareResidual(w, f) * (1 + 1e-6));
  }
});

Deno.test("signDescentGraph makes its f64 twin's signs and never raises the error", async () => {
  for (const [n, m, k] of [[21, 34, 13], [9, 11, 70], [40, 20, 32]]) {
    const w = randomMatrix(n, m, 31), f = factors(n, m, k);
    f.b.data[0] = -f.b.data[0];
    for (const side of ["B", "A"] as const) {
      const [fixed, fixedScale, signs, scale] = side === "B" ? [f.A, f.a, f.B, f.b] : [f.B, f.b, f.A, f.a];
      const p = signs.cols, q = fixed.cols;
      const out = await runGraph(signDescentGraph(n, m, k, side), {
        w,
        fixed,
        fixedScale: matrix(1, q, (_, i) => fixedScale.data[i]),
        mid: f.mid,
        signs,
        scale: matrix(1, p, (_, j) => scale.data[j]),
      });
      const left = matrix(k, q, (c, i) => at(fixed, c, i) * fixedScale.data[i] * f.mid.data[c]);
      const gram = product(left, transposed(left)), cross = product(left, side === "B" ? w : transposed(w));
      const expected = matrix(k, p, (c, j) => at(signs, c, j) * Math.sign(scale.data[j]));
      for (let c = 0; c < k; c++) {
        for (let j = 0; j < p; j++) {
          let pull = at(cross, c, j);
          for (let d = 0; d < k; d++) {
            if (d !== c) pull -= at(gram, c, d) * at(expected, d, j) * Math.abs(scale.data[j]);
          }
          expected.data[c * p + j] = pull >= 0 ? 1 : -1;
        }
      }
      // A sum within rounding of zero may fall either way, and later signs follow: allow one in a hundred.
      const different = expected.data.filter((value, i) => value !== out.signs_next[i]).length;
      assert(different <= expected.data.length / 100, `${[n, m, k]} ${side}: ${different}`);
      const next = { ...f, [side]: matrix(k, p, (c, j) => out.signs_next[c * p + j]) };
      const magnitudes = Array.from(out.scale_next);
      if (side === "B") next.b = matrix(1, m, (_, j) => magnitudes[j]);
      else next.a = matrix(n, 1, (i) => magnitudes[i]);
      assert(meanSquareResidual(w, next) <= meanSquareResidual(w, f) * (1 + 1e-6));
    }
  }
});

Deno.test("pairFlipsGraph lowers the error below every single flip's reach", async () => {
  for (const [n, m, k] of [[21, 34, 13], [9, 11, 40], [40, 20, 1]]) {
    const w = randomMatrix(n, m, 31), f = factors(n, m, k);
    const vector = (x: Matrix) => matrix(1, x.data.length, (_, j) => x.data[j]);
    const feeds = { w, fixed: f.A, fixedScale: vector(f.a), mid: f.mid, scale: vector(f.b) };
    let signs: ArrayLike<number> = f.B.data;
    for (let sweep = 0; sweep < 30; sweep++) {
      signs = (await runGraph(signDescentGraph(n, m, k, "B"), {
        ...feeds,
        signs: matrix(k, m, (c, j) => signs[c * m + j]),
      }))
        .signs_next;
    }
    const at1 = { ...f, B: matrix(k, m, (c, j) => signs[c * m + j]) };
    const out = await runGraph(pairFlipsGraph(n, m, k, "B", 48), { ...feeds, signs: at1.B });
    const at2 = { ...f, B: matrix(k, m, (c, j) => out.signs_next[c * m + j]) };
    const [before, after] = [meanSquareResidual(w, at1), meanSquareResidual(w, at2)];
    assert(after <= before * (1 + 1e-6), `${after} after ${before}`);
    if (k > 1) assert(after < before * 0.999, `${[n, m, k]}: ${after} after ${before}`);
    // The same for A by transposition of everything.
    const wT = transposed(w);
    const other = await runGraph(pairFlipsGraph(m, n, k, "A", 48), { ...feeds, w: wT, signs: at1.B });
    assertEquals(other.signs_next, out.signs_next);
  }
});

Deno.test({
  name: "signSearchGraph finds the best of all signs where they can be counted, and never raises the error",
  ignore: !hasNativeOps(runtime),
  async fn() {
    for (const [n, m, k] of [[21, 70, 11], [9, 11, 40], [70, 20, 130], [5, 6, 1]]) {
      const w = randomMatrix(n, m, 31), f = factors(n, m, k);
      f.b.data[0] = -f.b.data[0];
      for (const side of ["B", "A"] as const) {
        const [fixed, fixedScale, signs, scale] = side === "B" ? [f.A, f.a, f.B, f.b] : [f.B, f.b, f.A, f.a];
        const p = signs.cols, q = fixed.cols;
        const out = await runGraph(signSearchGraph(n, m, k, side, 200), {
          w,
          fixed,
          fixedScale: matrix(1, q, (_, i) => fixedScale.data[i]),
          mid: f.mid,
          signs,
          scale: matrix(1, p, (_, j) => scale.data[j]),
        });
        const next = { ...f, [side]: matrix(k, p, (c, j) => out.signs_next[c * p + j]) };
        const magnitudes = Array.from(out.scale_next);
        if (side === "B") next.b = matrix(1, m, (_, j) => magnitudes[j]);
        else next.a = matrix(n, 1, (i) => magnitudes[i]);
        assert(meanSquareResidual(w, next) <= meanSquareResidual(w, f) * (1 + 1e-6), `${[n, m, k]} ${side}`);
        if (k > 11) continue;
        const left = matrix(k, q, (c, i) => at(fixed, c, i) * fixedScale.data[i] * f.mid.data[c]);
        const gram = product(left, transposed(left)), cross = product(left, side === "B" ? w : transposed(w));
        const energy = (j: number, sign: (c: number) => number) => {
          let sum = 0;
          for (let c = 0; c < k; c++) {
            sum -= 2 * magnitudes[j] * sign(c) * at(cross, c, j);
            for (let d = 0; d < k; d++) sum += magnitudes[j] ** 2 * sign(c) * sign(d) * at(gram, c, d);
          }
          return sum;
        };
        let optimal = 0;
        for (let j = 0; j < p; j++) {
          const found = energy(j, (c) => out.signs_next[c * p + j]);
          let best = Infinity;
          for (let code = 0; code < 2 ** k; code++) best = Math.min(best, energy(j, (c) => code >> c & 1 ? 1 : -1));
          const size = magnitudes[j] ** 2 * Math.max(...gram.data);
          assert(found >= best - 1e-4 * size);
          if (found <= best + 1e-4 * size) optimal++;
        }
        assert(optimal >= 0.9 * p, `${[n, m, k]} ${side}: ${optimal} of ${p} columns`);
      }
    }
  },
});

Deno.test("packGraph and unpackGraph round-trip every width modulo 32", async () => {
  for (let cols = 1; cols <= 66; cols++) {
    const signs = signMatrix(3, cols, cols);
    const { bits } = await runGraph(packGraph(3, cols), { signs });
    const { bits: same } = await runGraph(packGraph(3, cols, true), { signs: transposed(signs) });
    assertEquals(same, bits);
    await using session = await runtime.load(encodeModel(unpackGraph(3, cols)));
    const packed = bits as Uint8Array;
    const { signs: back } = await session.run({ bits: runtime.tensor("uint8", packed, [3, packed.length / 3]) });
    assertEquals(Array.from(await back.read() as Float32Array), Array.from(signs.data));
    assertEquals(packed[0] & 1, at(signs, 0, 0) > 0 ? 1 : 0);
  }
});

Deno.test("weighGraph gives row ⊙ W ⊙ col and its sum of squares", async () => {
  const w = randomMatrix(13, 29, 1), row = positive(13, 1, 2), col = positive(1, 29, 3);
  const { weighted, squares } = await runGraph(weighGraph(13, 29), { w, row, col });
  const expected = matrix(13, 29, (i, j) => at(w, i, j) * row.data[i] * col.data[j]);
  assert(largestDifference(weighted, expected.data) < 1e-5);
  const total = expected.data.reduce((sum, value) => sum + value * value, 0);
  assert(Math.abs(squares[0] - total) < 1e-5 * total);
});

Deno.test("weigh reads in panels what it would read at once", async () => {
  const rows = 5, cols = PANEL_ELEMENTS / 2;
  const value = (i: number) => i === 0 ? 0 : i * 1e30;
  const weighting = { row: Float32Array.of(1, 2, 1, 0.5, 1), col: new Float32Array(cols).fill(1) };
  await using pool = openPool(runtime, "panels", false);
  const ranges: string[] = [];
  const { w, factor, meanSquare } = await weigh(
    {
      name: "w",
      rows,
      cols,
      weighting,
      readRows: (start, end) => {
        ranges.push(`${start}-${end}`);
        return Promise.resolve(
          new Float32Array((end - start) * cols).map((_, at) => value(start + Math.floor(at / cols))),
        );
      },
    },
    pool,
    runtime,
  );
  assertEquals(ranges, ["0-2", "2-4", "4-5"]);
  const data = await w.read() as Float32Array;
  const expected = [0, 2, 2, 1.5, 4];
  expected.forEach((each, i) => assert(Math.abs(data[i * cols + 7] * factor / 1e30 - each) < 1e-5));
  assert(Math.abs(meanSquare * (factor / 1e30) ** 2 - (4 + 4 + 2.25 + 16) / 5) < 0.05);
  w[Symbol.dispose]();
});
