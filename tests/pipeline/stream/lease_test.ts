import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import fc from "fast-check";
import { createLease, formatBytes } from "../../../pipeline/stream/lease.ts";

const tick = () => new Promise((resolve) => setTimeout(resolve, 0));

Deno.test("createLease() serves in order: a small request never overtakes a large one", async () => {
  const lease = createLease(100);
  const order: string[] = [];
  const first = await lease.reserve(80, "first");
  const large = lease.reserve(90, "large").then((r) => (order.push("large"), r));
  const small = lease.reserve(10, "small").then((r) => (order.push("small"), r));
  await tick();
  assertEquals([order.length, lease.waiting, lease.inUse], [0, 2, 80]);
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  await tick();
  assertEquals(order, ["large", "small"]);
  (await large)[Symbol.dispose]();
  (await small)[Symbol.dispose]();
  assertEquals([lease.inUse, lease.peak, lease.waiting], [0, 100, 0]);
});

Deno.test("createLease() names the layer, the bytes and --memory when a request can never fit", async () => {
  const error = await assertRejects(() => createLease(1024).reserve(2048, "layers.3.up_proj"), RangeError);
  for (const part of ["layers.3.up_proj", "2048", "--memory", "1.00 KiB"]) assertStringIncludes(error.message, part);
  assertThrows(() => createLease(0), RangeError);
});

Deno.test("createLease() lets go of an aborted request and serves those behind it", async () => {
  const lease = createLease(10);
  const held = await lease.reserve(5, "held");
  const controller = new AbortController();
  const blocked = lease.reserve(10, "blocked", controller.signal);
  const behind = lease.reserve(5, "behind");
  controller.abort(new Error("stop"));
  await assertRejects(() => blocked, Error, "stop");
  assertEquals((await behind).bytes, 5);
  await assertRejects(() => lease.reserve(1, "late", controller.signal), Error, "stop");
  held[Symbol.dispose]();
  assertEquals([lease.inUse, lease.waiting], [5, 0]);
});

Deno.test("createLease() never grants more than its bytes, and grants every request in the end", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 50 }), fc.array(fc.nat(50), { maxLength: 30 }), async (bytes, sizes) => {
      const lease = createLease(bytes);
      const order: number[] = [];
      await Promise.all(sizes.map(async (size, index) => {
        try {
          using reservation = await lease.reserve(size, String(index));
          order.push(index);
          assert(lease.inUse <= bytes && reservation.bytes === size);
          if (index % 3) await Promise.resolve();
        } catch (error) {
          assert(error instanceof RangeError && size > bytes);
        }
      }));
      assertEquals(lease.inUse, 0);
      assertEquals(order.length, sizes.filter((size) => size <= bytes).length);
    }),
    { numRuns: 200, seed: 7 },
  );
});

Deno.test("formatBytes() picks a binary unit", () => {
  assertEquals([0, 1023, 1536, 4 * 2 ** 30].map(formatBytes), ["0 bytes", "1023 bytes", "1.50 KiB", "4.00 GiB"]);
});
