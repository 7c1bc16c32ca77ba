import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import type { ArtefactEntry, ArtefactReader } from "../../../pipeline/artefact/types.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { writeModel } from "../../../pipeline/graph/external_data.ts";
import { codeBytes, groupsOf, packRows, unpackRows } from "../../../pipeline/stream/nbits_layout.ts";
import { type CodeBits, storedBits } from "../../../pipeline/stream/factors.ts";
import type { NbitsFactors, PackedLayer, SignFactors } from "../../../pipeline/stream/stage.ts";
import { PACKED_KINDS } from "../../../plugins/packing/kinds.ts";
import { unpackFactors } from "../../../plugins/packing/unpack.ts";
import type { LayerBuilder } from "../../../plugins/target/onnx/layer.ts";
import { LAYER_BUILDERS } from "../../../plugins/target/onnx/weights.ts";
import { at, type Matrix, matrix, randomMatrix } from "../factorization/dbf_admm/twins.ts";
import { fixedJob } from "../factorization/memory_handle.ts";
import { restoredWeight } from "../factorization/nbits/twins.ts";
import { randomSigns } from "../../pipeline/fake_stages.ts";

const runtime = await openRuntime({ threads: 1 });

/** Random codes, scales and zero points. */
function randomFactors(
  rows: number,
  cols: number,
  bits: CodeBits,
  group: number,
  seed: number,
  middle: boolean,
): NbitsFactors {
  const groups = groupsOf(cols, group), width = storedBits(bits);
  let state = seed | 1;
  const next = (below: number) =>
    Math.floor((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32 * below);
  const codes = Uint8Array.from({ length: rows * groups * group }, (_, place) => {
    const col = Math.floor(place / group) % groups * group + place % group;
    return col < cols ? next(2 ** bits) : 0;
  });
  return {
    kind: "nbits",
    rows,
    cols,
    bits,
    group,
    codes: packRows(codes, rows * groups, group, width),
    scales: Float32Array.from({ length: rows * groups }, () => (next(1000) + 1) / 1000 / 2 ** bits),
    zeros: Uint8Array.from({ length: rows * groups }, () => middle ? 2 ** (width - 1) : next(2 ** bits)),
    weightedError: 0.25,
  };
}

/** y = x·Wᵀ of a packed layer, as its exported node gives it. */
async function exported(
  builder: LayerBuilder,
  packed: PackedLayer,
  rows: number,
  x: Matrix,
): Promise<ArrayLike<number>> {
  const directory = await Deno.makeTempDir();
  try {
    const entry: ArtefactEntry = {
      name: "w",
      kind: packed.kind,
      shape: [rows, x.cols],
      generation: 0,
      attributes: packed.attributes,
      bytes: 0,
    };
    const source = { layer: () => Promise.resolve(packed) } as unknown as ArtefactReader;
    const g = createGraph("layer");
    const input = g.input("x", "float32", ["rows", x.cols]);
    const linear = { role: "up_proj", weight: "w", rows, cols: x.cols };
    g.output("y", builder(g, { linear, entry, source, dtype: "float32" }, input));
    await writeModel(g, directory, "model.onnx");
    await using session = await runtime.load(`${directory}/model.onnx`);
    using tensor = runtime.tensor("float32", Float32Array.from(x.data), [x.rows, x.cols]);
    return await (await session.run({ x: tensor })).y.read() as Float32Array;
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

function assertProduct(y: ArrayLike<number>, x: Matrix, w: Matrix, label: string): void {
  for (let row = 0; row < x.rows; row++) {
    for (let out = 0; out < w.rows; out++) {
      let sum = 0, size = 0;
      for (let k = 0; k < x.cols; k++) {
        sum += at(x, row, k) * at(w, out, k);
        size += Math.abs(at(x, row, k) * at(w, out, k));
      }
      assertAlmostEquals(y[row * w.rows + out], sum, 2e-5 * size + 1e-6, label);
    }
  }
}

Deno.test("packRows() and unpackRows() round-trip every width and length", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(2, 4, 8),
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 1, max: 70 }),
      (width, rows, length) => {
        const values = Uint8Array.from({ length: rows * length }, (_, place) => place * 37 % 2 ** width);
        const packed = packRows(values, rows, length, width);
        assertEquals(packed.length, rows * Math.ceil(length * width / 8));
        assertEquals(unpackRows(packed, rows, length, width), values);
      },
    ),
    { seed: 1, numRuns: 60 },
  );
});

Deno.test("MatMulNBits gives the product with the packed weight that the factors stand for, at awkward shapes", async () => {
  for (const bits of [2, 3, 4, 8] as const) {
    for (
      const [rows, cols, group, middle] of [[5, 70, 32, false], [1, 16, 16, false], [3, 130, 64, true], [
        17,
        128,
        128,
        false,
      ]] as const
    ) {
      const factors = randomFactors(rows, cols, bits, group, bits + rows, middle);
      const packed = PACKED_KINDS.nbits.pack(fixedJob("w", { rows, cols }), factors);
      assertEquals("zeros" in packed.tensors, !middle);
      assertEquals(unpackFactors("w", [rows, cols], packed), factors);
      for (const tokens of [1, 7]) {
        const x = randomMatrix(tokens, cols, 9);
        assertProduct(
          await exported(LAYER_BUILDERS.nbits, packed, rows, x),
          x,
          restoredWeight(factors),
          `${bits} bits, ${rows}x${cols}, ${tokens}`,
        );
      }
    }
  }
});

Deno.test("a sign layer round-trips, and its exported node gives the product with diag(a)·S·diag(b)", async () => {
  const [rows, cols] = [19, 45];
  const S = randomSigns(rows, cols, 3), width = Math.ceil(cols / 32);
  const factors: SignFactors = {
    kind: "sign",
    S,
    a: Float32Array.from({ length: rows }, (_, i) => 0.1 + i / 10),
    b: Float32Array.from({ length: cols }, (_, j) => j / 50 - 0.4),
    weightedError: 0.5,
  };
  const packed = PACKED_KINDS.sign.pack(fixedJob("w", { rows, cols }), factors);
  assertEquals(unpackFactors("w", [rows, cols], packed), factors);
  const w = matrix(
    rows,
    cols,
    (i, j) => factors.a[i] * factors.b[j] * (S.words[i * width + (j >> 5)] >>> (j & 31) & 1 ? 1 : -1),
  );
  const x = randomMatrix(4, cols, 2);
  assertProduct(await exported(LAYER_BUILDERS.sign, packed, rows, x), x, w, "sign");
});

Deno.test("unpackFactors() refuses impossible rounded layers, naming the weight", () => {
  const packed = PACKED_KINDS.nbits.pack(fixedJob("w", { rows: 4, cols: 40 }), randomFactors(4, 40, 4, 16, 1, false));
  const refused = (change: Partial<PackedLayer>, part: string) => {
    const error = assertThrows(() => unpackFactors("w", [4, 40], { ...packed, ...change })) as Error;
    assertEquals(error.message.includes('"w"') && error.message.includes(part), true, error.message);
  };
  const attributes = (change: Record<string, number | boolean>) => ({
    attributes: { ...packed.attributes, ...change },
  });
  refused(attributes({ bits: 5 }), "2, 3, 4 or 8 bits");
  refused(attributes({ group: 24 }), "group");
  refused(attributes({ bits: 8 }), `${4 * 3}`);
  const { codes, ...without } = packed.tensors;
  refused({ tensors: without }, "codes");
  refused(
    { tensors: { ...packed.tensors, codes: { ...codes, data: codes.data.subarray(1) } } },
    `${codeBytes(4, 40, 4, 16)} bytes`,
  );
  const wrong = randomFactors(4, 41, 4, 16, 1, false);
  assertThrows(
    () => PACKED_KINDS.nbits.pack(fixedJob("w", { rows: 4, cols: 60 }), wrong),
    RangeError,
    '"w" as its codes',
  );
});
