import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { parseSafetensorsHeader, safetensorsHeaderLength } from "../../../pipeline/checkpoint/safetensors.ts";
import {
  DTYPE_BYTES,
  MAX_HEADER_BYTES,
  type SafetensorsDType,
} from "../../../pipeline/checkpoint/safetensors_dtype.ts";
import { safetensorsHeader, writeSafetensors } from "../../../pipeline/checkpoint/safetensors_writer.ts";

const encode = (text: string) => new TextEncoder().encode(text);
const parse = (text: string, dataBytes = 0) => parseSafetensorsHeader(encode(text), dataBytes, "x.safetensors");

Deno.test("parseSafetensorsHeader() reads names, metadata and places, in the header's order and with escapes", () => {
  const header = parse(
    ` {"__metadata__":{"format":"pt"}, "b\\u0041":{"shape":[2,0],"dtype":"F32","data_offsets":[3,3]},
      "a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}, "s":{"dtype":"I64","shape":[],"data_offsets":[3,11]} } `,
    11,
  );
  assertEquals(header.metadata, { format: "pt" });
  assertEquals(header.tensors.map(({ name, elements, begin }) => [name, elements, begin]), [
    ["bA", 0, 3],
    ["a", 3, 0],
    ["s", 1, 3],
  ]);
});

Deno.test("parseSafetensorsHeader() refuses each malformed field and says which", () => {
  const tensor = (fields: string) => `{"w":{${fields}}}`;
  const cases: readonly [string, number, string][] = [
    ["", 0, "is expected"],
    ["[]", 0, '"{" is expected'],
    ["{} x", 0, "something follows"],
    ['{"w":1}', 0, '"{" is expected'],
    ['{"w', 0, "not closed"],
    ['{"w\\q":{}}', 0, "escape"],
    ['{"\\ud800":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', 1, "well-formed"],
    [tensor('"dtype":"U8","shape":[1]'), 1, "lacks one of"],
    [tensor('"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":[]'), 1, 'field "x"'],
    [tensor('"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]'), 1, 'repeated field "dtype"'],
    [tensor('"dtype":"Q4","shape":[1],"data_offsets":[0,1]'), 1, "dtype of tensor"],
    [tensor('"dtype":"toString","shape":[1],"data_offsets":[0,1]'), 1, "dtype of tensor"],
    [tensor('"dtype":"U8","shape":[-1],"data_offsets":[0,1]'), 1, "whole number"],
    [tensor('"dtype":"U8","shape":[1.5],"data_offsets":[0,1]'), 1, "is expected"],
    [tensor('"dtype":"U8","shape":[1e3],"data_offsets":[0,1]'), 1, "is expected"],
    [tensor('"dtype":"U8","shape":[01],"data_offsets":[0,1]'), 1, "starts with 0"],
    [tensor('"dtype":"U8","shape":[[1]],"data_offsets":[0,1]'), 1, "whole number"],
    [tensor('"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,1]'), 1, "beyond 2^53"],
    [tensor('"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,1]'), 1, "too large"],
    [tensor(`"dtype":"U8","shape":[${"1,".repeat(16)}1],"data_offsets":[0,1]`), 1, "more than 16"],
    [tensor('"dtype":"U8","shape":[1],"data_offsets":[0]'), 1, "begin and an end"],
    [tensor('"dtype":"U8","shape":[1],"data_offsets":[2,1]'), 2, "before it begins"],
    [tensor('"dtype":"F32","shape":[1],"data_offsets":[0,2]'), 2, "must span 4 bytes"],
    [tensor('"dtype":"F32","shape":[1],"data_offsets":[0,4]'), 3, "cut file"],
    [tensor('"dtype":"U8","shape":[1],"data_offsets":[1,2]'), 2, "leaves a gap"],
    [tensor('"dtype":"U8","shape":[1],"data_offsets":[0,1]'), 2, "take 1 bytes"],
    [
      '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
      3,
      "overlaps",
    ],
    [
      '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
      0,
      '"a" is there twice',
    ],
    ['{"__metadata__":{"a":1}}', 0, "is expected"],
    ['{"__metadata__":{"a":"1","a":"2"}}', 0, "there twice"],
    [`{"w":${"[".repeat(100_000)}`, 0, '"{" is expected'],
  ];
  for (const [text, dataBytes, message] of cases) {
    const error = assertThrows(() => parse(text, dataBytes), Error, message);
    assert(error instanceof SyntaxError || error instanceof RangeError, text);
    assert(error.message.includes("x.safetensors") && error.message.length < 1000, error.message);
  }
  assertThrows(() => parseSafetensorsHeader(Uint8Array.of(0x7b, 0xff, 0x7d), 0, "x"), SyntaxError, "UTF-8");
  assertThrows(() => parseSafetensorsHeader(encode("\ufeff{}"), 0, "x"), SyntaxError, "is expected");
});

Deno.test("safetensorsHeaderLength() refuses lengths beyond the file and beyond the limit", () => {
  const prefix = (length: bigint) => {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, length, true);
    return bytes;
  };
  assertEquals(safetensorsHeaderLength(prefix(10n), 18, "x"), 10);
  assertThrows(() => safetensorsHeaderLength(prefix(11n), 18, "x"), RangeError, "cut short");
  assertThrows(() => safetensorsHeaderLength(new Uint8Array(3), 3, "x"), RangeError, "file of 3 bytes");
  for (const length of [BigInt(MAX_HEADER_BYTES) + 1n, 2n ** 63n, 2n ** 64n - 1n]) {
    assertThrows(() => safetensorsHeaderLength(prefix(length), 100, "x"), RangeError, "another format");
  }
});

const entry = fc.record({
  name: fc.string({ unit: "binary", maxLength: 12 }).filter((name) => name !== "__metadata__" && name.isWellFormed()),
  dtype: fc.constantFrom(...Object.keys(DTYPE_BYTES) as SafetensorsDType[]),
  shape: fc.array(fc.nat(5), { maxLength: 3 }),
});
const entries = fc.uniqueArray(entry, { selector: ({ name }) => name, maxLength: 6 });

Deno.test("safetensorsHeader() and parseSafetensorsHeader() round-trip any names, types and shapes", () => {
  fc.assert(fc.property(entries, fc.dictionary(fc.string(), fc.string()), (list, metadata) => {
    const { header, offsets, byteLength } = safetensorsHeader(list, metadata);
    assertEquals(header.byteLength % 8, 0);
    const length = safetensorsHeaderLength(header.subarray(0, 8), byteLength, "x");
    const parsed = parseSafetensorsHeader(header.subarray(8), byteLength - 8 - length, "x");
    assertEquals({ ...parsed.metadata }, { ...metadata });
    assertEquals(
      parsed.tensors.map(({ name, dtype, shape }) => ({ name, dtype, shape })),
      list.map(({ name, dtype, shape }) => ({ name, dtype, shape })),
    );
    for (const { name, begin, end } of parsed.tensors) {
      assertEquals(offsets.get(name), [begin + 8 + length, end + 8 + length]);
    }
  }));
});

Deno.test("parseSafetensorsHeader() answers any mutation of a header quickly, with a clear error or a consistent result", () => {
  const pieces = [
    "{",
    "}",
    "[",
    "]",
    '"',
    ":",
    ",",
    "\\",
    "0",
    "-1",
    "9007199254740993",
    "1e9",
    "\u0000",
    "null",
    '"dtype"',
  ];
  const mutation = fc.record({
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    remove: fc.nat(6),
    insert: fc.oneof(fc.constantFrom(...pieces), fc.string({ maxLength: 4 })),
  });
  fc.assert(
    fc.property(entries, fc.array(mutation, { maxLength: 4 }), fc.nat(3), (list, mutations, extra) => {
      const { header, byteLength } = safetensorsHeader(list);
      let text = new TextDecoder().decode(header.subarray(8));
      for (const { at, remove, insert } of mutations) {
        const position = Math.floor(at * text.length);
        text = text.slice(0, position) + insert + text.slice(position + remove);
      }
      const dataBytes = byteLength - header.byteLength + (extra === 3 ? 1 : 0);
      const started = performance.now();
      try {
        let position = 0;
        const { tensors } = parse(text, dataBytes);
        for (const { begin, end, elements, dtype } of tensors.toSorted((x, y) => x.begin - y.begin || x.end - y.end)) {
          assertEquals([begin, end], [position, position + elements * DTYPE_BYTES[dtype]]);
          position = end;
        }
        assertEquals(position, dataBytes);
      } catch (error) {
        assert(error instanceof SyntaxError || error instanceof RangeError, String(error));
        assert(error.message.includes("x.safetensors"));
      }
      assert(performance.now() - started < 1000);
    }),
    { numRuns: 1500 },
  );
});

Deno.test("writeSafetensors() writes the bytes of the format, from arrays and from streamed chunks", async () => {
  const path = await Deno.makeTempFile();
  const written = await writeSafetensors(path, [
    { name: "a", dtype: "F32", shape: [1], chunks: new Uint8Array(Float32Array.of(1).buffer) },
    {
      name: "b",
      dtype: "U8",
      shape: [3],
      chunks: async function* () {
        yield Uint8Array.of(7);
        await Promise.resolve();
        yield Uint8Array.of(8, 9);
      },
    },
  ], { metadata: { kind: "test" } });
  const json = '{"__metadata__":{"kind":"test"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' +
    '"b":{"dtype":"U8","shape":[3],"data_offsets":[4,7]}}';
  const padded = json + " ".repeat((8 - json.length % 8) % 8);
  const golden = [padded.length, 0, 0, 0, 0, 0, 0, 0, ...encode(padded), 0, 0, 0x80, 0x3f, 7, 8, 9];
  assertEquals([...await Deno.readFile(path)], golden);
  assertEquals(written.byteLength, golden.length);
  await Deno.remove(path);
});

Deno.test("writeSafetensors() refuses chunks that miss the shape, repeated and reserved names, and leaves no file", async () => {
  const path = await Deno.makeTempFile();
  const bad = [
    [{ name: "a", dtype: "U8", shape: [2], chunks: Uint8Array.of(1) }],
    [{ name: "a", dtype: "U8", shape: [2], chunks: () => [Uint8Array.of(1), Uint8Array.of(1, 2)] }],
  ] as const;
  for (const list of bad) {
    let message = "";
    await writeSafetensors(path, list).catch((error: RangeError) => message = error.message);
    assert(message.includes('Cannot write "a"'), message);
    assertEquals(await Deno.stat(path).catch(() => "gone"), "gone");
  }
  const one = { name: "a", dtype: "U8", shape: [] } as const;
  assertThrows(() => safetensorsHeader([one, one]), RangeError, "one name");
  assertThrows(() => safetensorsHeader([{ ...one, name: "__metadata__" }]), RangeError, "__metadata__");
  assertThrows(() => safetensorsHeader([{ ...one, shape: [1.5] }]), RangeError, "whole dimensions");
  assertThrows(() => safetensorsHeader([{ ...one, shape: [2 ** 30, 2 ** 30] }]), RangeError, "too large");
});
