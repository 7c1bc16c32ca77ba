import { assert, assertEquals } from "@std/assert";
import { directCalls } from "../../../kernels/runtime/c_api/direct_calls.ts";
import { onnxRuntimePath, openLibrary } from "../../../kernels/runtime/c_api/library.ts";
import { FUNCTIONS } from "../../../kernels/runtime/c_api/table.ts";
import { findNativeLibrary } from "../../../kernels/runtime/native_library.ts";

const native = findNativeLibrary("cpu");

Deno.test("directCalls() gives nothing without the library, or with one that lacks the calls", () => {
  assertEquals(directCalls(() => 0n, "/nowhere/libdbf_ops.so"), undefined);
  assertEquals(directCalls(() => 0n, onnxRuntimePath()), undefined);
});

Deno.test({
  name: "directCalls() calls the function at its place, with every number of arguments, and returns all 64 bits",
  ignore: native === undefined,
  fn() {
    assertEquals(openLibrary().callsThrough, native!.path);
    // A function that tells its arguments: calls are made to it instead of ONNX Runtime's.
    const seen: bigint[] = [];
    for (const { count, name } of functionsByCount(directCalls(() => 0n)!.functions)) {
      const teller = new Deno.UnsafeCallback(
        { parameters: new Array(count).fill("u64") as "u64"[], result: "u64" },
        (...words: bigint[]) => {
          seen.splice(0, seen.length, ...words);
          return 0xfedc_ba98_7654_3210n;
        },
      );
      const address = Deno.UnsafePointer.value(teller.pointer);
      const call = directCalls(() => address)!.functions[name] as (...words: unknown[]) => bigint;
      const { parameters, result } = FUNCTIONS[name];
      const buffer = new BigUint64Array(new ArrayBuffer(8));
      const words = parameters.map((type, index) =>
        type === "buffer" ? buffer : type === "i32" ? 7 + index : BigInt(7 + index) << 40n
      );
      const returned = call(...words);
      teller.close();
      if (result === "u64") assertEquals(returned, 0xfedc_ba98_7654_3210n, name);
      const bufferAddress = Deno.UnsafePointer.value(Deno.UnsafePointer.of(buffer));
      const expected = words.map((word) => typeof word === "object" ? bufferAddress : BigInt(word));
      assertEquals(seen.map((word, index) => parameters[index] === "i32" ? word & 0xffff_ffffn : word), expected, name);
    }
  },
});

/** The functions, each with its number of arguments; together all numbers that the library has calls for. */
function functionsByCount(functions: Readonly<Record<string, unknown>>) {
  const names = Object.keys(functions) as (keyof typeof FUNCTIONS)[];
  const list = names.map((name) => ({ name, count: FUNCTIONS[name].parameters.length }));
  assertEquals([...new Set(list.map(({ count }) => count))].sort(), [1, 2, 3, 4, 5, 8]);
  assert(list.length > 6);
  return list;
}
