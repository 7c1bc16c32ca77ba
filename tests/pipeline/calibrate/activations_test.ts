import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import type { Runtime, Tensor } from "../../../kernels/runtime/types.ts";
import { type Activations, batchesOf, openActivations } from "../../../pipeline/calibrate/activations.ts";
import { trainingSteps } from "../../../pipeline/calibrate/batch_size.ts";
import { readFloats } from "../../../pipeline/calibrate/engine.ts";
import { cutSegments, joinSegments } from "../../../pipeline/calibrate/parameters.ts";
import { residentChains } from "../../../pipeline/calibrate/resident_chains.ts";
import { shuffledBatches } from "../../../pipeline/calibrate/shuffle.ts";
import { provider } from "../../kernels/runtime/graphs.ts";

const SHAPE = { windows: 3, tokens: 2, features: 2 };

/** Fills activations of {@linkcode SHAPE} with 0 … 11, the last window on its own. */
async function fill(runtime: Runtime, activations: Activations): Promise<void> {
  const numbers = Float32Array.from({ length: 12 }, (_, at) => at);
  await activations.write(0, runtime.tensor("float32", numbers.slice(0, 8), [2, 2, 2]));
  await activations.write(2, runtime.tensor("float32", numbers.slice(8), [1, 2, 2]));
}

Deno.test("openActivations() reads windows in any order and refuses a file of another size", async () => {
  await using runtime = await openRuntime({ threads: 1 });
  const path = await Deno.makeTempFile();
  {
    using file = openActivations(runtime, path, SHAPE, { create: true });
    await fill(runtime, file);
  }
  using file = openActivations(runtime, path, SHAPE, { create: false });
  assertEquals(await readFloats(await file.tensor([2, 0])), Float32Array.of(8, 9, 10, 11, 0, 1, 2, 3));
  assertThrows(() => openActivations(runtime, path, { ...SHAPE, windows: 4 }, { create: false }), RangeError, "48 byt");
  await Deno.remove(path);
});

Deno.test("residentChains() keeps windows in any order until they are dropped", async () => {
  await using runtime = await openRuntime({ provider, threads: 1 });
  await using store = residentChains(runtime);
  {
    using made = store.create(SHAPE);
    await fill(runtime, made);
    store.keep("a", made);
  }
  assertEquals(residentChains(runtime), store);
  using found = store.find("a", SHAPE)!;
  assertEquals(await readFloats(await found.tensor([2, 0])), Float32Array.of(8, 9, 10, 11, 0, 1, 2, 3));
  await found.write(0, runtime.tensor("float32", Float32Array.of(7, 7, 7, 7), [1, 2, 2]));
  // the window that was written together with it stays
  assertEquals(await readFloats(await found.tensor([0, 1])), Float32Array.of(7, 7, 7, 7, 4, 5, 6, 7));
  await found.write(1, runtime.tensor("float32", new Float32Array(8), [2, 2, 2]));
  assertEquals(await readFloats(await found.tensor([2, 0])), Float32Array.of(0, 0, 0, 0, 7, 7, 7, 7));
  assertEquals(store.find("a", { ...SHAPE, windows: 2 }), undefined);
  store.drop("a");
  assertEquals(store.find("a", SHAPE), undefined);
});

Deno.test("residentChains() gives taken activations away, whose windows are freed one after the other", async () => {
  await using runtime = await openRuntime({ provider, threads: 1 });
  await using store = residentChains(runtime);
  const freed: string[] = [];
  const noted = (name: string, data: number[], shape: number[]): Tensor => {
    const tensor = runtime.tensor("float32", Float32Array.from(data), shape);
    return Object.assign(Object.create(tensor) as Tensor, {
      [Symbol.dispose]() {
        freed.push(name);
        tensor[Symbol.dispose]();
      },
    });
  };
  using made = store.create({ windows: 3, tokens: 1, features: 1 });
  await made.write(0, noted("first two", [1, 2], [2, 1, 1]));
  await made.write(2, noted("third", [3], [1, 1, 1]));
  store.keep("a", made);
  using taken = store.take("a", { windows: 3, tokens: 1, features: 1 })!;
  assertEquals(store.find("a", { windows: 3, tokens: 1, features: 1 }), undefined);
  taken.release!([0, 2]);
  assertEquals(freed, ["third"]);
  await assertRejects(() => taken.tensor([0]), RangeError, "Cannot take window 0");
  taken.release!([1]);
  assertEquals(freed, ["third", "first two"]);
});

Deno.test("batchesOf() covers all windows once, the last batch being shorter", () => {
  assertEquals(batchesOf(5, 2), [[0, 1], [2, 3], [4]]);
});

Deno.test("shuffledBatches() visits every window once an epoch and gives any step again", () => {
  const order = shuffledBatches(7, 2, 11);
  const epoch = [0, 1, 2].flatMap((step) => order(step));
  assertEquals(new Set(epoch).size, 6);
  const later = order(40);
  order(3);
  assertEquals(order(40), later);
});

Deno.test("trainingSteps() stops at passes or tokens, whichever is first", () => {
  assertEquals(trainingSteps({ epochs: 2, tokens: Infinity }, 10, 4, 8), 5);
  assertEquals(trainingSteps({ epochs: 2, tokens: 64 }, 10, 4, 8), 2);
  assertEquals(trainingSteps({ epochs: 0.1, tokens: 64 }, 10, 4, 8), 1);
  assertEquals(trainingSteps({ epochs: 0, tokens: 64 }, 10, 4, 8), 0);
});

Deno.test("joinSegments() and cutSegments() are inverse, and a wrong length is named", () => {
  const segments = [{ name: "a", shape: [2, 2] }, { name: "b", shape: [3] }];
  const arrays = new Map([["a", Float32Array.of(1, 2, 3, 4)], ["b", Float32Array.of(5, 6, 7)]]);
  assertEquals(cutSegments(segments, joinSegments(segments, arrays)), arrays);
  arrays.set("b", Float32Array.of(5));
  assertThrows(() => joinSegments(segments, arrays), RangeError, '"b"');
});
