import { assertEquals, assertRejects } from "@std/assert";
import * as ort from "onnxruntime-node";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { writeModel } from "../../../pipeline/graph/external_data.ts";
import { encodeModel } from "../../../pipeline/graph/encode.ts";
import { decodeModel } from "../../../pipeline/graph/decode.ts";
import { add, gather, int64 } from "../../../pipeline/graph/ops.ts";
import type { ExternalSource } from "../../../pipeline/graph/types.ts";

/** f32 numbers base, base + 1, … in chunks of `chunk` elements. */
function counting(elements: number, base: number, chunk = 1000): ExternalSource {
  return {
    byteLength: 4 * elements,
    async *chunks() {
      for (let at = 0; at < elements; at += chunk) {
        const length = Math.min(chunk, elements - at);
        await Promise.resolve();
        yield new Uint8Array(Float32Array.from({ length }, (_, index) => base + at + index).buffer);
      }
    },
  };
}

function sumGraph(sizes: readonly number[]) {
  const g = createGraph("sums");
  const x = g.input("x", "float32", [1]);
  let total = x;
  sizes.forEach((size, index) => {
    const w = g.initializer(`w${index}`, "float32", [size], counting(size, index * 10));
    total = add(g, total, gather(g, w, int64(g, size - 1)));
  });
  g.output("y", total);
  return g;
}

Deno.test("writeModel() streams big initializers into aligned external data and embeds small ones", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const sizes = [3, 5_000, 300_001, 7_001];
    const seen: number[] = [];
    const written = await writeModel(sumGraph(sizes), directory, "model.onnx", {
      onProgress: ({ bytesDone, bytesTotal }) => seen.push(bytesDone / bytesTotal),
    });
    assertEquals(written.files, [`${directory}/model.onnx`, `${directory}/model.onnx.data`]);
    assertEquals([...Deno.readDirSync(directory)].map(({ name }) => name).sort(), ["model.onnx", "model.onnx.data"]);
    assertEquals(seen.at(-1), 1);
    const places = decodeModel(await Deno.readFile(written.files[0])).graph!.initializer
      .filter(({ externalData }) => externalData.length > 0)
      .map(({ name, externalData }) => [name, Number(externalData[1].value), Number(externalData[2].value)]);
    assertEquals(places, [["w1", 0, 20_000], ["w2", 20_480, 1_200_004], ["w3", 1_220_544, 28_004]]);

    const session = await ort.InferenceSession.create(written.files[0]);
    const { y } = await session.run({ x: new ort.Tensor("float32", [0.5], [1]) });
    assertEquals(y.data[0], 0.5 + sizes.reduce((sum, size, index) => sum + index * 10 + size - 1, 0));
    await session.release();
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("writeModel() asks for a chunk only when those before it are in the file", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const g = createGraph("streamed"), chunk = 1 << 16, count = 40;
    let most = 0;
    const source: ExternalSource = {
      byteLength: chunk * count,
      async *chunks() {
        for (let index = 0; index < count; index++) {
          const [data] = [...Deno.readDirSync(directory)].filter(({ name }) => name.startsWith("model.onnx.data"));
          most = Math.max(most, index * chunk - (await Deno.stat(`${directory}/${data.name}`)).size);
          yield new Uint8Array(chunk);
        }
      },
    };
    g.output("y", add(g, g.initializer("w", "float32", [chunk * count / 4], source), 1));
    await writeModel(g, directory, "model.onnx");
    assertEquals(most, 0);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("writeModel() refuses a source of another size and leaves no file", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const g = createGraph("short");
    const source = { ...counting(1000, 0), byteLength: 4004 };
    g.output("y", add(g, g.initializer("w", "float32", [1001], source), 1));
    await assertRejects(() => writeModel(g, directory, "model.onnx"), RangeError, '"w" as 4004 bytes');
    assertEquals([...Deno.readDirSync(directory)], []);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("writeModel() stops when aborted and leaves no file", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const controller = new AbortController();
    const onProgress = () => controller.abort(new DOMException("stop", "AbortError"));
    const writing = writeModel(sumGraph([100_000]), directory, "model.onnx", { signal: controller.signal, onProgress });
    await assertRejects(() => writing, DOMException, "stop");
    assertEquals([...Deno.readDirSync(directory)], []);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("encodeModel() writes places beyond 4 GiB that ONNX Runtime reads", async () => {
  const directory = await Deno.makeTempDir();
  try {
    // A sparse file: only the last tensor of a 4.5 GiB layout is written.
    const g = createGraph("sparse");
    const last = g.initializer("last", "float32", [2000], counting(2000, 5));
    g.output("y", gather(g, last, int64(g, 1999)));
    const offset = 3 * 1.5 * 2 ** 30;
    const places = new Map([["last", { location: "model.onnx.data", offset, length: 8000 }]]);
    await Deno.writeFile(`${directory}/model.onnx`, encodeModel(g, { places }));
    using file = await Deno.open(`${directory}/model.onnx.data`, { write: true, create: true });
    await file.seek(offset, Deno.SeekMode.Start);
    for await (const chunk of g.externals.get("last")!.source.chunks()) await file.write(chunk);
    const session = await ort.InferenceSession.create(`${directory}/model.onnx`);
    const { y } = await session.run({});
    assertEquals(y.data[0], 2004);
    await session.release();
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
