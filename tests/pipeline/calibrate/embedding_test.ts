import { assertEquals, assertRejects } from "@std/assert";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { openEmbedding } from "../../../pipeline/calibrate/embedding.ts";
import { openHead } from "../../../pipeline/calibrate/head.ts";
import { openCheckpoint } from "../../../pipeline/checkpoint/open.ts";
import { describeModel } from "../../../pipeline/model/describe.ts";
import { provider } from "../../kernels/runtime/graphs.ts";

Deno.test("openEmbedding() reads each row once while it is kept, and gives the table's rows either way", async () => {
  using checkpoint = await openCheckpoint("tests/fixtures/architectures/llama");
  const described = describeModel(checkpoint.config, checkpoint.tensors);
  const model = { ...described, embeddingScale: 0.5 }, { hiddenSize } = model;
  const table = await checkpoint.tensor(model.embedding).read();
  const windows = [Int32Array.of(3, 1, 3, 7), Int32Array.of(7, 0, 1, 1)];
  const expected = windows.flatMap((ids) =>
    [...ids].flatMap((id) => [...table.subarray(id * hiddenSize, (id + 1) * hiddenSize)].map((value) => value * 0.5))
  );
  // all four rows are kept; two of them; none
  for (const [rows, reads] of [[4, [4, 4]], [2, [4, 6]], [0, [4, 8]]] as const) {
    let read = 0;
    const counted = {
      tensor(name: string) {
        const handle = checkpoint.tensor(name);
        const readRows: typeof handle.readRows = (start, end) => (read += end - start, handle.readRows(start, end));
        return { ...handle, readRows };
      },
    };
    using embed = openEmbedding(counted, model, rows * 4 * hiddenSize);
    for (const total of reads) {
      assertEquals([...await embed(windows)], expected);
      assertEquals(read, total);
    }
    await assertRejects(() => embed([Int32Array.of(1e6)]), RangeError, "Cannot embed token 1000000");
    await assertRejects(() => embed([Int32Array.of(-1)]), RangeError, "Cannot embed token -1");
  }
});

Deno.test("a head that is tied to the embedding embeds as the checkpoint's rows do; another one does not", async () => {
  await using runtime = await openRuntime({ provider, threads: 1 });
  const windows = [Int32Array.of(3, 1, 3, 7, 0), Int32Array.of(7, 0, 1, 1, 2)];
  for (const [name, tied] of [["gemma3_text", true], ["llama", false]] as const) {
    using checkpoint = await openCheckpoint(`tests/fixtures/architectures/${name}`);
    const model = describeModel(checkpoint.config, checkpoint.tensors);
    await using head = await openHead(runtime, model, checkpoint);
    assertEquals(head.embed !== undefined, tied, name);
    if (head.embed === undefined) continue;
    using found = await head.embed(windows);
    using embed = openEmbedding(checkpoint, model);
    assertEquals(found.shape, [2, 5, model.hiddenSize]);
    assertEquals(await found.read(), await embed(windows));
    await assertRejects(() => head.embed!([Int32Array.of(1e6)]), RangeError, "Cannot embed token 1000000");
    await assertRejects(() => head.embed!([Int32Array.of(-1)]), RangeError, "Cannot embed token -1");
  }
});
