import { assertEquals, assertThrows } from "@std/assert";
import { batchesOf, openActivations } from "../../../pipeline/calibrate/activations.ts";
import { trainingSteps } from "../../../pipeline/calibrate/batch_size.ts";
import { cutSegments, joinSegments } from "../../../pipeline/calibrate/parameters.ts";
import { shuffledBatches } from "../../../pipeline/calibrate/shuffle.ts";

Deno.test("openActivations() reads windows in any order and refuses a file of another size", async () => {
  const path = await Deno.makeTempFile();
  const shape = { windows: 3, tokens: 2, features: 2 };
  {
    using file = openActivations(path, shape, { create: true });
    file.write(0, Float32Array.from({ length: 8 }, (_, at) => at));
    file.write(2, Float32Array.of(8, 9, 10, 11));
  }
  using file = openActivations(path, shape, { create: false });
  assertEquals(file.read([2, 0]), Float32Array.of(8, 9, 10, 11, 0, 1, 2, 3));
  assertThrows(() => openActivations(path, { ...shape, windows: 4 }, { create: false }), RangeError, "48 bytes");
  await Deno.remove(path);
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
