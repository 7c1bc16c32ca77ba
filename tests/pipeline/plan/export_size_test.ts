import { assert } from "@std/assert";
import { dirname, join } from "node:path";
import { compress } from "../../../pipeline/compress.ts";
import type { RecipeInput } from "../../../pipeline/recipe/schema.ts";
import { fakeFactorization, fakeRuntime } from "../fake_stages.ts";
import { fixture } from "../model/golden.ts";

/** Bytes of the exported graph and its data. */
async function exportedSize(input: Omit<RecipeInput, "out">): Promise<number> {
  const out = await Deno.makeTempDir();
  try {
    const recipe = { ...input, out, stages: { factorization: "fake", ...input.stages } };
    const { exported } = await compress(recipe, { runtime: fakeRuntime, plugins: [fakeFactorization] });
    const sizes = await Promise.all(
      ["model.onnx", "model.onnx.data"].map((name) =>
        Deno.stat(join(exported, name)).then(({ size }) => size, () => 0)
      ),
    );
    return sizes[0] + sizes[1];
  } finally {
    await Deno.remove(out, { recursive: true });
  }
}

for (const dtype of ["f32", "f16"] as const) {
  Deno.test(`--size is never exceeded and nearly used by any architecture, ${dtype}`, async () => {
    const all = [...Deno.readDirSync(dirname(fixture("llama")))].map(({ name }) => name);
    for (const name of [...(dtype === "f16" ? all : ["gemma3_text", "phi3"]), "tiny-llama"]) {
      const model = fixture(name), blocks = name === "tiny-llama" ? 4 : 2;
      const plain = await exportedSize({ model, dtype, bits: 1.5 });
      const size = plain + 30_000;
      const bytes = await exportedSize({ model, dtype, size });
      // what is reserved for the graph, less what the graphs of these need, and one step of a layer
      assert(bytes <= size && bytes > size - 8192 - 8192 * blocks, `${name}: ${bytes} of ${size}`);
    }
  });
}
