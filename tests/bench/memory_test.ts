import { assert, assertLess, assertRejects } from "@std/assert";
import { measureLimited, runMeasured } from "../../bench/memory.ts";
import { findMemoryLimit } from "../../bench/memory_limit.ts";

const limit = await findMemoryLimit().catch(() => undefined);

Deno.test({
  name: "compress, data-free and calibrated, finishes in a process that may have no more memory than plan promises",
  ignore: limit === undefined,
  async fn() {
    // `deno task bench memory` does it with larger blocks.
    const folder = await Deno.makeTempDir({ prefix: "dbf-memory-" });
    try {
      const shape = { hidden: 128, intermediate: 256, vocabulary: 512, heads: 4, kvHeads: 2, headDim: 32 };
      const rows = await measureLimited(folder, limit!, { ...shape, blocks: 2, filledBlocks: 2, filledEnds: true }, [
        ...["--set", "distillation.epochs=1", "--set", "distillation.residentBytes=16777216"],
      ]);
      for (const { what, peakRssBytes, promisedBytes } of rows) {
        assert(peakRssBytes > 50 * 2 ** 20, what);
        assertLess(peakRssBytes, promisedBytes!, what);
      }
      // The limit is one: under less than an idle process takes, the command is ended.
      const out = `${folder}/starved`;
      await assertRejects(
        () => runMeasured(["compress", `${folder}/small`, out, "--bits", "1", "--json"], limit, 48 * 2 ** 20),
        Error,
        "Cannot measure",
      );
    } finally {
      await Deno.remove(folder, { recursive: true });
      await limit![Symbol.asyncDispose]();
    }
  },
});
