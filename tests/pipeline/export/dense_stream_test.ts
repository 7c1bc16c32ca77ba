import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { denseSource, type DenseTensor, transposedSource } from "../../../pipeline/export/dense_stream.ts";
import { f32ToF16Bits } from "../../../pipeline/checkpoint/half.ts";
import type { ExternalSource } from "../../../pipeline/graph/types.ts";

function matrix(rows: number, cols: number): DenseTensor & { readonly values: Float32Array; most: number } {
  const values = Float32Array.from({ length: rows * cols }, (_, index) => Math.fround(Math.sin(index) * 100));
  const tensor = {
    name: "w",
    shape: [rows, cols],
    values,
    most: 0,
    readRows(start: number, end: number) {
      tensor.most = Math.max(tensor.most, end - start);
      return Promise.resolve(values.slice(start * cols, end * cols));
    },
  };
  return tensor;
}

async function collect(source: ExternalSource): Promise<{ bytes: Uint8Array<ArrayBuffer>; largest: number }> {
  const bytes = new Uint8Array(source.byteLength);
  let at = 0, largest = 0;
  for await (const chunk of source.chunks()) {
    bytes.set(chunk, at);
    at += chunk.length;
    largest = Math.max(largest, chunk.length);
  }
  assertEquals(at, source.byteLength);
  return { bytes, largest };
}

Deno.test("denseSource() streams rows of any matrix in panels", async () => {
  const tensor = matrix(1000, 700);
  const { bytes, largest } = await collect(denseSource(tensor, "float32"));
  assertEquals(new Float32Array(bytes.buffer), tensor.values);
  assertEquals(largest <= 1 << 20 && tensor.most < 1000, true);
});

Deno.test("transposedSource() turns a matrix", async () => {
  const rows = 1301, cols = 447, tensor = matrix(rows, cols);
  const expected = Float32Array.from(
    { length: rows * cols },
    (_, index) => tensor.values[(index % rows) * cols + Math.floor(index / rows)],
  );
  assertEquals(new Float32Array((await collect(transposedSource(tensor, "float32"))).bytes.buffer), expected);
  const { bytes } = await collect(transposedSource(tensor, "float16"));
  assertEquals(new Uint16Array(bytes.buffer), f32ToF16Bits(expected));
  assertEquals(tensor.most < rows, true);
});

Deno.test("denseSource() refuses what float16 cannot hold, and transposedSource() what is no matrix or too large", async () => {
  const tensor = { name: "w", shape: [2], readRows: () => Promise.resolve(Float32Array.of(1, 70_000)) };
  await assertRejects(() => collect(denseSource(tensor, "float16")), RangeError, '"w" as float16');
  assertThrows(() => transposedSource(tensor, "float32"), RangeError, "as a matrix");
  assertThrows(() => transposedSource({ ...tensor, shape: [1 << 14, 1 << 13] }, "float32"), RangeError, "as a matrix");
});
