import { assert, assertEquals } from "@std/assert";
import * as v from "valibot";
import type { CheckpointReader, TensorHandle } from "../../../pipeline/checkpoint/types.ts";
import { logitDistillation } from "../../../plugins/distillation/logits.ts";
import { openSmallRun } from "./small_run.ts";

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
  const { model, jobs, importance, calibration, factors } = run;
  await logitDistillation.run(
    {
      model,
      checkpoint: spied(run.checkpoint, seen),
      jobs,
      importance,
      calibration,
      factors: (name) => Promise.resolve(factors.get(name)!),
      commit: () => Promise.resolve(),
    },
    v.parse(logitDistillation.options, { batchTokens: 36, epochs: 1 }),
    run.context,
  );
  assertEquals([...seen].filter((name) => linears.has(name)), []);
});
