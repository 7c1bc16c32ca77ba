import { assert, assertEquals } from "@std/assert";
import * as v from "valibot";
import type { CheckpointReader, TensorHandle } from "../../../pipeline/checkpoint/types.ts";
import type { Runtime } from "../../../kernels/runtime/types.ts";
import { dbfAdmm } from "../../../plugins/factorization/dbf_admm/stage.ts";
import { fisherDiagonalImportance } from "../../../plugins/importance/fisher_diagonal.ts";
import { blockTuning } from "../../../plugins/reconstruction/block_tuning.ts";
import { factorsOfKind } from "../../../pipeline/stream/factors.ts";
import { distil, openSmallRun } from "./small_run.ts";

/** A reader that notes which tensors are read. */
function spied(checkpoint: CheckpointReader, seen: Set<string>): CheckpointReader {
  const spy = (handle: TensorHandle): TensorHandle => ({
    ...handle,
    read: (signal) => (seen.add(handle.name), handle.read(signal)),
    readRows: (start, end, signal) => (seen.add(handle.name), handle.readRows(start, end, signal)),
    bytes: (chunk) => handle.bytes(chunk),
  });
  return {
    ...checkpoint,
    tensors: new Map([...checkpoint.tensors].map(([name, handle]) => [name, spy(handle)])),
    tensor: (name) => spy(checkpoint.tensor(name)),
    get bytesRead() {
      return checkpoint.bytesRead;
    },
    [Symbol.dispose]() {},
  };
}

Deno.test("reconstruction reads one block's weights at a time, distillation none at all", async () => {
  await using run = await openSmallRun();
  const linears = new Set(run.jobs.map(({ name }) => name));
  for (const block of run.model.blocks) {
    const seen = new Set<string>();
    await run.reconstruct({ batchTokens: 36 }, [block], undefined, spied(run.checkpoint, seen));
    const read = [...seen].filter((name) => linears.has(name));
    assert(read.length > 0);
    assert(read.every((name) => block.linears.some(({ weight }) => weight === name)), `block ${block.index}: ${read}`);
  }
  const seen = new Set<string>();
  await distil({ ...run, checkpoint: spied(run.checkpoint, seen) }, run.factors, { epochs: 1 });
  assertEquals([...seen].filter((name) => linears.has(name)), []);
});

/** Counts the bytes of linears' weights, as the reader's handles gave them, that are in tensors of the runtime. */
function counted(run: Awaited<ReturnType<typeof openSmallRun>>) {
  const weights = new WeakSet<object>();
  const linears = new Set(run.jobs.map(({ name }) => name));
  let alive = 0, most = 0;
  const count = (handle: TensorHandle): TensorHandle => ({
    ...handle,
    async read(signal) {
      const data = await handle.read(signal);
      if (linears.has(handle.name)) weights.add(data);
      return data;
    },
  });
  const runtime: Runtime = {
    ...run.context.runtime,
    tensor(dtype, data, shape) {
      const tensor = run.context.runtime.tensor(dtype, data, shape);
      if (!weights.has(data)) return tensor;
      most = Math.max(most, alive += tensor.byteLength);
      const dispose = tensor[Symbol.dispose].bind(tensor);
      let held = true;
      tensor[Symbol.dispose] = () => {
        if (held) alive -= tensor.byteLength;
        held = false;
        dispose();
      };
      return tensor;
    },
  };
  const checkpoint: CheckpointReader = {
    ...run.checkpoint,
    tensor: (name) => count(run.checkpoint.tensor(name)),
    get bytesRead() {
      return run.checkpoint.bytesRead;
    },
    [Symbol.dispose]() {},
  };
  return { runtime, checkpoint, peak: () => most, now: () => alive };
}

Deno.test("importance and reconstruction never have more than one block's full-precision weights in tensors", async () => {
  await using run = await openSmallRun();
  const { runtime, checkpoint, peak, now } = counted(run);
  const bytesOf = (jobs: typeof run.jobs) => jobs.reduce((sum, { rows, cols }) => sum + 4 * rows * cols, 0);
  const block = bytesOf(run.jobs.filter((job) => job.block === 0)), all = bytesOf(run.jobs);
  assertEquals(all, 2 * block);
  await fisherDiagonalImportance.run(
    { checkpoint, model: run.model, layers: run.jobs, calibration: run.calibration },
    v.parse(fisherDiagonalImportance.options, {}),
    { ...run.context, runtime },
  );
  assertEquals([peak(), now()], [block, 0]);
  for (const each of run.model.blocks) {
    const made = await blockTuning.run(
      {
        block: each.index,
        model: run.model,
        checkpoint,
        jobs: run.jobs.filter((job) => job.block === each.index),
        importance: run.importance,
        calibration: run.calibration,
        wantsInputMoment: () => false,
        factorize: (job, weight) =>
          dbfAdmm.run(
            { job, weight, importance: run.importance.get(job.name) },
            v.parse(dbfAdmm.options, { iterations: 2, sweeps: 0 }),
            run.context,
          ),
        committed: (name) => Promise.resolve(run.factors.get(name)),
      },
      v.parse(blockTuning.options, { batchTokens: 36, retuneEpochs: 1 }),
      { ...run.context, runtime },
    );
    for (const [name, factors] of made) run.factors.set(name, factorsOfKind(name, factors, "dbf"));
    assertEquals([peak(), now()], [block, 0], `block ${each.index}`);
  }
});
