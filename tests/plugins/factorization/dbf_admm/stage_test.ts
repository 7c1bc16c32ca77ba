import { assert, assertEquals, assertRejects } from "@std/assert";
import * as v from "valibot";
import { openRuntime } from "../../../../kernels/runtime/open.ts";
import { provider } from "../../../kernels/runtime/graphs.ts";
import type { DbfEvent } from "../../../../pipeline/stream/events.ts";
import type { DbfFactors, LayerImportance } from "../../../../pipeline/stream/stage.ts";
import { factorsOfKind } from "../../../../pipeline/stream/factors.ts";
import { dbfAdmm } from "../../../../plugins/factorization/dbf_admm/stage.ts";
import { memoryHandle } from "../memory_handle.ts";
import { type Matrix, matrix, randomMatrix, reconstruct, weightedError } from "./twins.ts";

const runtime = await openRuntime({ threads: 1, provider });

async function run(
  w: Matrix,
  rank: number,
  options: Record<string, unknown> = {},
  { importance, seed = 1 }: { importance?: LayerImportance; seed?: number } = {},
): Promise<{ factors: DbfFactors; events: DbfEvent[] }> {
  const events: DbfEvent[] = [];
  const name = "model.layers.0.mlp.up_proj.weight";
  const made = await dbfAdmm.run(
    {
      job: { name, block: 0, role: "mlp.up_proj", rows: w.rows, cols: w.cols, rank, seed },
      weight: memoryHandle(name, w),
      importance,
    },
    v.parse(dbfAdmm.options, { effort: "fast", ...options }),
    { runtime, signal: new AbortController().signal, scratch: "", emit: (event) => events.push(event) },
  );
  return { factors: factorsOfKind(name, made, "dbf"), events };
}

Deno.test("dbfAdmm reports the weighted error of the factors it returns", async () => {
  const w = randomMatrix(37, 70, 1);
  const importance = {
    input: Float32Array.from({ length: 70 }, (_, j) => (1 + j) / 10),
    output: Float32Array.from({ length: 37 }, (_, i) => 1 / (1 + i)),
  };
  const { factors } = await run(w, 45, {}, { importance });
  const error = weightedError(w, reconstruct(factors), importance.output, importance.input);
  assert(Math.abs(error - factors.weightedError) < 1e-5, `${error} against ${factors.weightedError}`);
  assert(error < 0.12, `error ${error}`);
});

Deno.test("dbfAdmm accepts any shape and rank", async () => {
  for (
    const [rows, cols, rank] of [[1, 1, 1], [1, 40, 3], [40, 1, 3], [5, 90, 1], [64, 3, 70], [33, 31, 200], [
      96,
      64,
      64,
    ]]
  ) {
    const w = randomMatrix(rows, cols, rows + cols);
    const { factors } = await run(w, rank, { iterations: 20 });
    const error = weightedError(w, reconstruct(factors));
    assert(error < 0.9 && Math.abs(error - factors.weightedError) < 1e-4, `${[rows, cols, rank]}: ${error}`);
    assertEquals(factors.A.words.length, rows * Math.ceil(rank / 32));
    assertEquals(factors.B.words.length, rank * Math.ceil(cols / 32));
    assertEquals(factors.latents?.A.length, rows * rank);
  }
});

Deno.test("dbfAdmm keeps padding bits of packed signs zero", async () => {
  const { factors } = await run(randomMatrix(9, 37, 3), 35, { iterations: 5 });
  for (const { words, cols } of [factors.A, factors.B]) {
    const perRow = Math.ceil(cols / 32);
    for (let r = perRow - 1; r < words.length; r += perRow) assertEquals(words[r] >>> (cols % 32), 0);
  }
});

Deno.test("dbfAdmm gives the same bytes for the same seed and other signs for another", async () => {
  const w = randomMatrix(48, 40, 5);
  const [first, again, other] = [await run(w, 24), await run(w, 24), await run(w, 24, {}, { seed: 2 })];
  assertEquals(first.factors, again.factors);
  assert(first.factors.B.words.some((word, i) => word !== other.factors.B.words[i]));
});

Deno.test("dbfAdmm survives zero, constant, rank-one, huge and tiny weights", async () => {
  const base = randomMatrix(40, 50, 7);
  const cases: Record<string, Matrix> = {
    constant: matrix(40, 50, () => 3),
    "rank one": matrix(40, 50, (i, j) => Math.sin(i + 1) * Math.cos(j)),
    huge: matrix(40, 50, (i, j) => base.data[i * 50 + j] * 1e30),
    tiny: matrix(40, 50, (i, j) => base.data[i * 50 + j] * 1e-30),
    "zero rows": matrix(40, 50, (i, j) => i % 3 ? base.data[i * 50 + j] : 0),
    "one entry": matrix(40, 50, (i, j) => i === 3 && j === 4 ? 1 : 0),
  };
  for (const [name, w] of Object.entries(cases)) {
    const { factors } = await run(w, 30, { iterations: 30 });
    const error = weightedError(w, reconstruct(factors));
    assert(error < 0.35 && Number.isFinite(factors.weightedError), `${name}: ${error}`);
  }
  const { factors } = await run(matrix(8, 8, () => 0), 4);
  assertEquals([...reconstruct(factors).data].every((value) => value === 0), true);
  assertEquals(factors.weightedError, 0);
});

Deno.test("dbfAdmm survives features without importance", async () => {
  const w = randomMatrix(30, 40, 11);
  const importance = {
    input: Float32Array.from({ length: 40 }, (_, j) => j < 20 ? 0 : 1),
    output: Float32Array.from({ length: 30 }, (_, i) => i < 5 ? 0 : 1),
  };
  const { factors } = await run(w, 40, { iterations: 30 }, { importance });
  const estimate = reconstruct(factors);
  assert(estimate.data.every(Number.isFinite));
  assert(weightedError(w, estimate, importance.output, importance.input) < 0.1);
  const none = { input: new Float32Array(40), output: new Float32Array(30) };
  assert((await run(w, 40, { iterations: 30 }, { importance: none })).factors.weightedError < 0.3);
});

Deno.test("dbfAdmm refuses NaN and infinity with the tensor's name", async () => {
  for (const bad of [NaN, Infinity, -Infinity]) {
    const w = matrix(6, 6, (i, j) => i === 2 && j === 3 ? bad : 1);
    await assertRejects(() => run(w, 3), RangeError, "model.layers.0.mlp.up_proj.weight");
  }
});

Deno.test("dbfAdmm reports errors that never rise after ADMM", async () => {
  const { events } = await run(randomMatrix(60, 48, 13), 30, { sweeps: 3, tolerance: 0 });
  const errors = events.flatMap((event) =>
    event.type === "stage-progress" && event.detail ? Object.values(event.detail) : []
  );
  assert(errors.length >= 3);
  for (let i = 1; i < errors.length; i++) assert(errors[i] <= errors[i - 1] * (1 + 1e-5), `${errors}`);
});

Deno.test("dbfAdmm gives latents whose signs are the signs", async () => {
  const { factors } = await run(randomMatrix(20, 24, 17), 12);
  const latents = new Float16Array(factors.latents!.A.buffer, factors.latents!.A.byteOffset, factors.latents!.A.length);
  for (let i = 0; i < 20; i++) {
    for (let c = 0; c < 12; c++) {
      const bit = (factors.A.words[i] >>> c) & 1;
      const latent = latents[i * 12 + c];
      assert(latent === 0 || (latent > 0) === (bit === 1));
    }
  }
});

Deno.test("dbfAdmm stops when its signal is aborted", async () => {
  const w = randomMatrix(40, 40, 19);
  await assertRejects(
    () =>
      dbfAdmm.run(
        {
          job: { name: "w", block: 0, role: "w", rows: 40, cols: 40, rank: 20, seed: 1 },
          weight: memoryHandle("w", w),
          importance: undefined,
        },
        v.parse(dbfAdmm.options, {}),
        { runtime, signal: AbortSignal.abort(new Error("stopped")), scratch: "", emit: () => {} },
      ),
    Error,
    "stopped",
  );
});
