import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { join } from "node:path";
import { openCheckpoint } from "../../../pipeline/checkpoint/open.ts";
import { type SafetensorsEntry, writeSafetensors } from "../../../pipeline/checkpoint/safetensors_writer.ts";
import type { WeightDType } from "../../../pipeline/checkpoint/types.ts";

const FIXTURES = new URL("../../fixtures/", import.meta.url).pathname;

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(join(folder, "config.json"), "{}");
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const weights = (folder: string, entries: readonly SafetensorsEntry[], name = "model.safetensors") =>
  writeSafetensors(join(folder, name), entries);

const bytesOf = (length: number, seed = 1) => {
  const bytes = new Uint8Array(length);
  for (let i = 0, state = seed; i < length; i++) {
    state = Math.imul(state, 1664525) + 1013904223 | 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
};

/** f64 twin of a small float: sign, exponent, mantissa; `infinities` as in IEEE, else only the top pattern is NaN. */
function small(bits: number, exponentBits: number, mantissaBits: number, infinities: boolean): number {
  const sign = bits >>> (exponentBits + mantissaBits) ? -1 : 1;
  const exponent = (bits >>> mantissaBits) & (2 ** exponentBits - 1);
  const mantissa = bits & (2 ** mantissaBits - 1);
  const bias = 2 ** (exponentBits - 1) - 1;
  const top = exponent === 2 ** exponentBits - 1;
  if (infinities && top) return mantissa ? NaN : sign * Infinity;
  if (top && mantissa === 2 ** mantissaBits - 1) return NaN;
  if (exponent === 0) return sign * mantissa * 2 ** (1 - bias - mantissaBits);
  return sign * (1 + mantissa * 2 ** -mantissaBits) * 2 ** (exponent - bias);
}

const TWINS: Readonly<
  Record<WeightDType, { readonly size: number; readonly at: (view: DataView, i: number) => number }>
> = {
  F64: { size: 8, at: (view, i) => Math.fround(view.getFloat64(8 * i, true)) },
  F32: { size: 4, at: (view, i) => view.getFloat32(4 * i, true) },
  F16: { size: 2, at: (view, i) => small(view.getUint16(2 * i, true), 5, 10, true) },
  BF16: { size: 2, at: (view, i) => small(view.getUint16(2 * i, true), 8, 7, true) },
  F8_E4M3: { size: 1, at: (view, i) => small(view.getUint8(i), 4, 3, false) },
  F8_E5M2: { size: 1, at: (view, i) => small(view.getUint8(i), 5, 2, true) },
};

Deno.test("openCheckpoint() decodes every weight type as its f64 twin does, whole, by rows, and over chunk borders", async () => {
  await withFolder(async (folder) => {
    // 1,200,005 elements of 2 bytes are more than one decoding chunk of 1 MiB.
    const rows = 5, cols = 240_001;
    const stored = new Map(Object.entries(TWINS).map(([dtype, { size }]) => [dtype, bytesOf(rows * cols * size)]));
    await weights(
      folder,
      [...stored].map(([dtype, chunks]) => ({ name: dtype, dtype: dtype as WeightDType, shape: [rows, cols], chunks })),
    );
    using checkpoint = await openCheckpoint(folder);
    for (const [dtype, { at }] of Object.entries(TWINS)) {
      const view = new DataView(stored.get(dtype)!.buffer);
      const all = await checkpoint.tensor(dtype).read();
      assertEquals(all.length, rows * cols);
      for (let i = 0; i < all.length; i++) {
        if (!Object.is(all[i], at(view, i))) throw new Error(`${dtype} ${i}: ${all[i]} instead of ${at(view, i)}`);
      }
      assertEquals(await checkpoint.tensor(dtype).readRows(2, 4), all.slice(2 * cols, 4 * cols));
      assertEquals((await checkpoint.tensor(dtype).readRows(3, 3)).length, 0);
    }
    assert(checkpoint.bytesRead >= 4 * rows * cols);
  });
});

Deno.test("openCheckpoint() multiplies 8-bit weights by their block scales, also where blocks are cut and rows start inside", async () => {
  await withFolder(async (folder) => {
    await Deno.writeTextFile(
      join(folder, "config.json"),
      JSON.stringify({ quantization_config: { quant_method: "fp8", weight_block_size: [3, 4] } }),
    );
    const rows = 7, cols = 10;
    const q = bytesOf(rows * cols).map((byte) => byte & 0xbf);
    const floats = (values: number[]) => new Uint8Array(Float32Array.from(values).buffer);
    const block = Array.from({ length: 9 }, (_, i) => i + 0.5);
    const perRow = Array.from({ length: rows }, (_, i) => i + 1);
    await weights(folder, [
      { name: "w", dtype: "F8_E4M3", shape: [rows, cols], chunks: q },
      { name: "w_scale_inv", dtype: "F32", shape: [3, 3], chunks: floats(block) },
      { name: "r", dtype: "F8_E5M2", shape: [rows, cols], chunks: q },
      { name: "r_scale", dtype: "F32", shape: [rows, 1], chunks: floats(perRow) },
      { name: "s", dtype: "F8_E4M3", shape: [rows, cols], chunks: q },
      { name: "s_scale", dtype: "F32", shape: [], chunks: floats([0.25]) },
    ]);
    using checkpoint = await openCheckpoint(folder);
    const twin = (i: number, scale: number, e5m2 = false) =>
      Math.fround((e5m2 ? small(q[i], 5, 2, true) : small(q[i], 4, 3, false)) * scale);
    const [w, r, s] = await Promise.all(["w", "r", "s"].map((name) => checkpoint.tensor(name).readRows(2, rows)));
    for (let row = 2; row < rows; row++) {
      for (let col = 0; col < cols; col++) {
        const i = row * cols + col, at = i - 2 * cols;
        assertEquals(w[at], twin(i, block[Math.floor(row / 3) * 3 + Math.floor(col / 4)]));
        assertEquals(r[at], twin(i, perRow[row], true));
        assertEquals(s[at], twin(i, 0.25));
      }
    }
  });
  await withFolder(async (folder) => {
    await weights(folder, [
      { name: "w", dtype: "F8_E4M3", shape: [4, 4], chunks: new Uint8Array(16) },
      { name: "w_scale_inv", dtype: "F32", shape: [2, 2], chunks: new Uint8Array(16) },
    ]);
    await assertRejects(() => openCheckpoint(folder), RangeError, 'Cannot scale "w" [4,4]');
  });
});

Deno.test("openCheckpoint() reads the bundled model, and its handles give stored bytes in bounded chunks", async () => {
  using checkpoint = await openCheckpoint(`${FIXTURES}tiny-llama`);
  assertEquals(checkpoint.tensors.size, 38);
  assertEquals(checkpoint.config.model_type, "llama");
  assertEquals(checkpoint.generationConfig?.eos_token_id, 0);
  assert(checkpoint.companions.some((path) => path.endsWith("/tokenizer.json")));
  const handle = checkpoint.tensor("model.norm.weight");
  const chunks: Uint8Array[] = [];
  for await (const chunk of handle.bytes(100)) chunks.push(chunk);
  assertEquals(chunks.map((chunk) => chunk.length), [100, 100, 100, 84]);
  assertThrows(() => checkpoint.tensor("model.layers.0.mlp.up_pro.weight"), Error, "model.layers.0.mlp.up_proj.weight");
  await assertRejects(() => handle.readRows(0, 193), RangeError, "has 192");
  await assertRejects(() => handle.readRows(-1, 2), RangeError, "[-1, 2)");
  const aborted = AbortSignal.abort(new Error("stop"));
  await assertRejects(() => handle.read(aborted), Error, "stop");
});

Deno.test("openCheckpoint() joins shards by their index, keeps few files open, and reads them at the same time", async () => {
  await withFolder(async (folder) => {
    const map: Record<string, string> = {};
    for (let i = 0; i < 6; i++) {
      const file = `model-${i}.safetensors`;
      const chunks = new Uint8Array(Float32Array.of(i, i + 0.5).buffer);
      await weights(folder, [{ name: `t${i}`, dtype: "F32", shape: [2], chunks }], file);
      map[`t${i}`] = file;
    }
    await Deno.writeTextFile(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map: map }));
    using checkpoint = await openCheckpoint(folder, { maxOpenFiles: 2 });
    const reads = Array.from({ length: 60 }, (_, i) => checkpoint.tensor(`t${i % 6}`).read());
    (await Promise.all(reads)).forEach((values, i) => assertEquals([...values], [i % 6, i % 6 + 0.5]));
    checkpoint[Symbol.dispose]();
    await assertRejects(() => checkpoint.tensor("t0").read(), Error, "was closed");
  });
});

Deno.test("openCheckpoint() refuses an index that leads out of the folder, by dots, root, link or drive", async () => {
  await withFolder(async (folder) => {
    const outside = await Deno.makeTempFile({ suffix: ".safetensors" });
    await Deno.symlink(outside, join(folder, "link.safetensors"));
    await Deno.mkdir(join(folder, "directory.safetensors"));
    const index = (file: unknown) =>
      Deno.writeTextFile(
        join(folder, "model.safetensors.index.json"),
        JSON.stringify({ weight_map: { w: file } }),
      );
    for (const file of ["../x.safetensors", "a/../../x.safetensors", outside, "C:\\x.safetensors", "", "a\0b"]) {
      await index(file);
      await assertRejects(() => openCheckpoint(folder), RangeError, "outside");
    }
    await index("link.safetensors");
    await assertRejects(() => openCheckpoint(folder), RangeError, "link out of its folder");
    await index("directory.safetensors");
    await assertRejects(() => openCheckpoint(folder), TypeError, "not a plain file");
    await index("missing.safetensors");
    await assertRejects(() => openCheckpoint(folder), Deno.errors.NotFound, "missing.safetensors");
    await index(3);
    await assertRejects(() => openCheckpoint(folder), SyntaxError, "must be a string");
    await weights(folder, [], "empty.safetensors");
    await index("empty.safetensors");
    await assertRejects(() => openCheckpoint(folder), RangeError, 'promises tensor "w"');
    await Deno.remove(outside);
  });
});

Deno.test("openCheckpoint() follows the hub cache's links into its blobs, and no others", async () => {
  const root = await Deno.makeTempDir();
  const snapshot = join(root, "models--org--name", "snapshots", "abc");
  const blobs = join(root, "models--org--name", "blobs");
  await Deno.mkdir(snapshot, { recursive: true });
  await Deno.mkdir(blobs);
  await weights(blobs, [{ name: "w", dtype: "U8", shape: [1], chunks: Uint8Array.of(1) }], "b1");
  await Deno.writeTextFile(join(blobs, "b2"), "{}");
  await Deno.symlink("../../blobs/b1", join(snapshot, "model.safetensors"));
  await Deno.symlink("../../blobs/b2", join(snapshot, "config.json"));
  {
    using checkpoint = await openCheckpoint(snapshot);
    assertThrows(() => checkpoint.tensor("w"), TypeError, "its type is U8");
  }
  await Deno.symlink("../../elsewhere", join(snapshot, "tokenizer.json"));
  await Deno.writeTextFile(join(root, "models--org--name", "elsewhere"), "{}");
  await assertRejects(() => openCheckpoint(snapshot), RangeError, "link out of its folder");
  await Deno.remove(root, { recursive: true });
});

Deno.test("openCheckpoint() names what a path is instead of a checkpoint, and the way out", async () => {
  await withFolder(async (folder) => {
    const refuses = (path: string, message: string) => assertRejects(() => openCheckpoint(path), Error, message);
    await refuses("org/some-model", "hf download org/some-model");
    await refuses(join(folder, "nothing"), "no such directory");
    await refuses(join(folder, "config.json"), "give the directory");
    await refuses(folder, "no *.safetensors");
    await Deno.writeTextFile(join(folder, "pytorch_model.bin"), "x");
    await refuses(folder, "pytorch_model.bin");
    await refuses(join(folder, "pytorch_model.bin"), "pickle");
    await Deno.writeTextFile(join(folder, "m.gguf"), "x");
    await refuses(folder, "original model");
    await refuses(join(folder, "m.gguf"), "GGUF");
    await weights(folder, [], "part.safetensors");
    await refuses(folder, "neither model.safetensors nor");
    await Deno.writeTextFile(join(folder, "adapter_config.json"), "{}");
    await refuses(folder, "adapter");
    await weights(folder, []);
    await Deno.remove(join(folder, "config.json"));
    await refuses(folder, "config.json is missing");
    for (const text of ["[]", "{", "null"]) {
      await Deno.writeTextFile(join(folder, "config.json"), text);
      await refuses(folder, "config.json");
    }
    await Deno.truncate(join(folder, "config.json"), 17_000_000);
    await refuses(folder, "beyond 16000000 bytes");
  });
});

Deno.test("TensorHandle names file and tensor where the file is cut after opening, and when it is cut before", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "model.safetensors");
    await weights(folder, [{ name: "some.weight", dtype: "F16", shape: [10, 10], chunks: new Uint8Array(200) }]);
    const { size } = await Deno.stat(path);
    using checkpoint = await openCheckpoint(folder);
    await Deno.truncate(path, size - 50);
    const error = await assertRejects(() => checkpoint.tensor("some.weight").read(), Error, "was cut from");
    assert(error.message.includes("some.weight") && error.message.includes(path));
    await assertRejects(() => openCheckpoint(folder), RangeError, "cut file");
  });
});

for (
  const [what, change, message] of [
    ["vanishes", (path) => Deno.remove(path), "vanished while it was in use"],
    ["is replaced by another of its size", async (path) => {
      await Deno.copyFile(path, `${path}.new`);
      await Deno.rename(`${path}.new`, path);
    }, "was replaced while it was in use"],
    ["is written to in place", async (path) => {
      using file = await Deno.open(path, { write: true });
      await file.write(Uint8Array.of(1));
      await Deno.utime(path, 1e9, 1e9);
    }, "was changed while it was in use"],
    ["turns into a directory", async (path) => {
      await Deno.remove(path);
      await Deno.mkdir(path);
    }, "Cannot read"],
  ] as [string, (path: string) => Promise<void>, string][]
) {
  Deno.test(`TensorHandle names file and tensor where the file ${what} after opening`, () =>
    withFolder(async (folder) => {
      const path = join(folder, "model.safetensors");
      await weights(folder, [{ name: "some.weight", dtype: "F16", shape: [10, 10], chunks: new Uint8Array(200) }]);
      using checkpoint = await openCheckpoint(folder);
      await checkpoint.tensor("some.weight").read();
      await change(path);
      const error = await assertRejects(() => checkpoint.tensor("some.weight").read(), Error, message);
      assert(error.message.includes("some.weight") && error.message.includes(path));
    }));
}

Deno.test({
  name: "ShardFile names file and tensor where the system cannot read",
  ignore: Deno.build.os !== "linux",
  async fn() {
    // The first page of a process's memory is never mapped: reading it gives EIO, as a failing disk does.
    const script = `
      import { createShardPool } from "${new URL("../../../pipeline/checkpoint/shard_file.ts", import.meta.url)}";
      using pool = createShardPool();
      await pool.file("/proc/self/mem").readInto(new Uint8Array(8), 0, '"some.weight"');`;
    const { stderr, success } = await new Deno.Command(Deno.execPath(), {
      args: ["eval", "--no-check", "--ext=ts", script],
      env: { NO_COLOR: "1" },
    }).output();
    const text = new TextDecoder().decode(stderr);
    assertEquals(success, false);
    assertMatch(text, /Cannot read "some.weight" from \/proc\/self\/mem: Input\/output error/);
  },
});
