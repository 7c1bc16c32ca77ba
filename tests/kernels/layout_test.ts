import fc from "fast-check";
import { packedBytes, packedShape, packSigns, unpackSigns } from "../../kernels/layout.ts";
import type { SignMatrix } from "../../pipeline/stream/stage.ts";

function check(condition: boolean, message: string): void {
  if (!condition) throw new Error(message);
}

function randomSigns(rows: number, cols: number, seed: number): SignMatrix {
  const width = Math.ceil(cols / 32);
  const words = new Uint32Array(rows * width);
  let state = seed >>> 0;
  for (let i = 0; i < words.length; i++) words[i] = state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  for (let row = 0; row < rows && cols % 32; row++) words[row * width + width - 1] &= 2 ** (cols % 32) - 1;
  return { rows, cols, words };
}

Deno.test("packSigns() puts row 16i+r, column 32w+j at bit j&7 of byte [i, w, r, j>>3]", () => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 70 }), fc.integer({ min: 1, max: 130 }), fc.nat(), (N, K, seed) => {
    const signs = randomSigns(N, K, seed);
    const bytes = packSigns(signs);
    const [blocks, width] = packedShape(N, K);
    for (let row = 0; row < blocks * 16; row++) {
      for (let col = 0; col < width * 32; col++) {
        const offset = (((row >> 4) * width + (col >> 5)) * 16 + (row & 15)) * 4 + ((col & 31) >> 3);
        const bit = bytes[offset] >> (col & 7) & 1;
        const expected = row < N && col < K ? signs.words[row * width + (col >> 5)] >>> (col & 31) & 1 : 0;
        check(bit === expected, `(${N}, ${K}) row ${row} column ${col}: ${bit}`);
      }
    }
  }));
});

Deno.test("unpackSigns() is the inverse of packSigns() for every size modulo 16 and 32", () => {
  for (let N = 1; N <= 33; N++) {
    for (let K = 1; K <= 65; K++) {
      const signs = randomSigns(N, K, N * 1000 + K);
      const back = unpackSigns(packSigns(signs), N, K);
      check(back.rows === N && back.cols === K, "size");
      check(back.words.every((word, i) => word === signs.words[i]), `words of (${N}, ${K})`);
    }
  }
});

Deno.test("packSigns() clears padding bits that the caller left set", () => {
  const dirty = { rows: 1, cols: 5, words: Uint32Array.of(0xffffffff) };
  check(packSigns(dirty)[0] === 31, "first byte");
  check(packSigns(dirty).subarray(1).every((byte) => byte === 0), "other bytes");
});

Deno.test("packSigns(), unpackSigns() and packedShape() name the size they refuse", () => {
  for (
    const [call, message] of [
      [() => packSigns({ rows: 2, cols: 3, words: new Uint32Array(1) }), "needs 2 words: current value is 1"],
      [() => unpackSigns(new Uint8Array(3), 2, 3), `needs ${packedBytes(2, 3)} bytes: current value is 3`],
      [() => packedShape(0, 3), "N must be a positive integer: current value is 0"],
      [() => packedShape(3, 1.5), "K must be a positive integer: current value is 1.5"],
    ] as const
  ) {
    let text = "";
    try {
      call();
    } catch (error) {
      if (error instanceof RangeError) text = error.message;
    }
    check(text.includes(message), `"${text}" includes "${message}"`);
  }
});
