import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertExists,
  assertGreater,
  AssertionError,
  assertNotEquals,
  assertObjectMatch,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { afterAll, afterEach, beforeAll, beforeEach, describe, it } from "@std/testing/bdd";

const fails = (fn: () => unknown) => assertThrows(fn, AssertionError);

Deno.test("assertEquals compares deeply, by type and content", () => {
  assertEquals(new Float32Array([1, NaN]), new Float32Array([1, NaN]));
  assertEquals(new Map([["a", new Set([1, [2]])]]) as unknown, new Map([["a", new Set([1, [2]])]]));
  assertEquals({ a: [1, { b: new Date(3) }] }, { a: [1, { b: new Date(3) }] });
  assertEquals([1n, undefined, null], [1n, undefined, null]);
  fails(() => assertEquals<unknown>(new Float32Array([1]), new Float64Array([1])));
  fails(() => assertEquals<unknown>({ a: 1 }, { a: 1, b: undefined }));
  fails(() => assertEquals<unknown>([1, 2], [1, 3]));
  fails(() => assertEquals<unknown>(0, -0));
  fails(() => assertEquals<unknown>(new Map([[1, 2]]), new Map([[1, 3]])));
  fails(() => assertEquals<unknown>(new Set([1]), new Set([2])));
  assertNotEquals<unknown>("1", 1);
});

Deno.test("assertEquals names the first place that differs", () => {
  const error = fails(() => assertEquals(new Uint8Array([1, 2, 3]), new Uint8Array([1, 9, 3])));
  assert(error.message.includes("[1]: 2 and 9"));
});

Deno.test("assertThrows and assertRejects check class and message, and give the error back", async () => {
  assertEquals(
    assertThrows(
      () => {
        throw new RangeError("too big");
      },
      RangeError,
      "big",
    ).message,
    "too big",
  );
  fails(() =>
    assertThrows(
      () => {
        throw new Error("x");
      },
      TypeError,
    )
  );
  fails(() => assertThrows(() => 1));
  assertEquals((await assertRejects(() => Promise.reject(new TypeError("no")), TypeError, "no")).message, "no");
  await assertRejects(() => assertRejects(() => Promise.resolve(1)), AssertionError);
});

Deno.test("assertAlmostEquals, assertExists, assertGreater, assertObjectMatch, assertStrictEquals do as they say", () => {
  assertAlmostEquals(1, 1 + 1e-9);
  fails(() => assertAlmostEquals(1, 1.1, 0.01));
  assertExists(0);
  fails(() => assertExists(null));
  assertGreater(2, 1);
  fails(() => assertGreater(1, 1));
  assertObjectMatch({ a: 1, b: { c: 2, d: 3 } }, { b: { c: 2 } });
  fails(() => assertObjectMatch({ a: 1 }, { a: 2 }));
  fails(() => assertStrictEquals({}, {}));
});

describe("describe", () => {
  const calls: string[] = [];
  beforeAll(() => void calls.push("all"));
  beforeEach(() => void calls.push("outer"));
  afterEach(() => void calls.push("after"));
  afterAll(() => assertEquals(calls, ["all", "outer", "after", "outer", "inner", "after"]));
  it("runs hooks around each test", () => assertEquals(calls, ["all", "outer"]));
  describe("nested", () => {
    beforeEach(() => void calls.push("inner"));
    it("runs outer hooks first", () => assertEquals(calls.slice(-2), ["outer", "inner"]));
  });
  it.ignore("skips ignored tests", () => assert(false));
});
