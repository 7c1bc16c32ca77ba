import { assert, assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import { chainDirectory } from "../../../pipeline/calibrate/chain.ts";
import { openBlockEngine, readFloats } from "../../../pipeline/calibrate/engine.ts";
import { residentChains } from "../../../pipeline/calibrate/resident_chains.ts";
import { shuffledBatches } from "../../../pipeline/calibrate/shuffle.ts";
import { openTeacher, teacherBytesOf, teacherWindows } from "../../../pipeline/calibrate/teacher.ts";
import { openSmallRun } from "../../plugins/reconstruction/small_run.ts";

const BATCH = 2, STEPS = 10;

/** Teachers of nine windows of a small model, four steps a pass, whose blocks' weights are counted and may be refused. */
async function openTeachers(resident: boolean) {
  const run = await openSmallRun();
  const { model, checkpoint, context: { runtime, scratch }, calibration } = run;
  const opened = openBlockEngine(runtime, model, checkpoint);
  let read = 0, allowed = Infinity;
  const weights: typeof opened.weights = (block, roles) => {
    if (read >= allowed) return Promise.reject(new Error("interrupted"));
    read++;
    return opened.weights(block, roles);
  };
  const engine = { ...opened, weights };
  const chain = {
    engine,
    windows: calibration,
    directory: chainDirectory(scratch, calibration),
    scratch,
    batch: BATCH,
    resident,
  };
  const setBytes = 4 * calibration[0].length * model.hiddenSize;
  return {
    blocks: model.blocks.length,
    setBytes,
    scratch,
    open: (windows: number, steps = STEPS) =>
      openTeacher(chain, shuffledBatches(calibration.length, BATCH, 5), steps, windows * setBytes),
    /** Weights of blocks read since the last call. */
    readBlocks: () => [read, read = 0][0],
    interruptAfter: (blocks: number) => void (allowed = blocks),
    async [Symbol.asyncDispose]() {
      await residentChains(runtime)[Symbol.asyncDispose]();
      await opened[Symbol.asyncDispose]();
      await run[Symbol.asyncDispose]();
    },
  };
}

async function bytesIn(directory: string): Promise<number> {
  let bytes = 0;
  for await (const { name, isDirectory } of Deno.readDir(directory)) {
    const path = join(directory, name);
    bytes += isDirectory ? await bytesIn(path) : (await Deno.stat(path)).size;
  }
  return bytes;
}

for (const resident of [false, true]) {
  const where = resident ? "on the device" : "in files";
  Deno.test(`openTeacher() gives the same hidden states by chunks as at once, ${where}, and keeps one chunk`, async () => {
    await using teachers = await openTeachers(resident);
    const { blocks, setBytes, readBlocks } = teachers;
    const expected: Float32Array[] = [];
    {
      using whole = teachers.open(9);
      for (let step = 0; step < STEPS; step++) expected.push(await readFloats(await whole.tensor(step)));
    }
    assertEquals(readBlocks(), blocks);
    // chunks of one, two and three steps; the third of the last ones ends where the steps do and goes over a pass's end
    for (const [windows, steps] of [[1, 1], [2, 1], [5, 2], [6, 3]]) {
      using teacher = teachers.open(windows);
      for (let step = 0; step < STEPS; step++) {
        assertEquals(await readFloats(await teacher.tensor(step)), expected[step]);
        assert(await bytesIn(teachers.scratch) <= (resident ? 0 : BATCH * steps * setBytes));
      }
      assertEquals(readBlocks(), blocks * Math.ceil(STEPS / steps));
    }
  });
}

Deno.test("openTeacher() finds the file of its chunk after an interruption, and goes on within one from the last block", async () => {
  await using teachers = await openTeachers(false);
  const { blocks, readBlocks } = teachers;
  const stepOf = async (step: number) => {
    using teacher = teachers.open(6);
    return await readFloats(await teacher.tensor(step));
  };
  const expected = await stepOf(4);
  assertEquals(readBlocks(), blocks);
  assertEquals(await stepOf(5), await stepOf(5));
  assertEquals(await stepOf(4), expected);
  assertEquals(readBlocks(), 0);
  await stepOf(0);
  assertEquals(readBlocks(), blocks);
  teachers.interruptAfter(1);
  await assertRejects(() => stepOf(3), Error, "interrupted");
  assertEquals(readBlocks(), 1);
  teachers.interruptAfter(Infinity);
  assertEquals(await stepOf(4), expected);
  assertEquals(readBlocks(), blocks - 1);
});

Deno.test("teacherWindows() are all that there are where they fit, else whole batches, one at least", () => {
  const shape = { windows: 9, tokens: 3, features: 5 };
  assertEquals(teacherWindows(shape, 2, 9 * 60), 9);
  assertEquals(teacherWindows(shape, 2, 9 * 60 - 1), 8);
  assertEquals(teacherWindows(shape, 2, 3 * 60), 2);
  assertEquals(teacherWindows(shape, 2, 0), 2);
  assertEquals(teacherBytesOf({ provider: "cuda", deviceMemory: 64 * 2 ** 30 }), 8 * 2 ** 30);
  assertEquals(teacherBytesOf({ provider: "cpu" }), 2 ** 30);
});
