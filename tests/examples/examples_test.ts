import { assert, assertAlmostEquals, assertEquals, assertGreater } from "@std/assert";
import { compress, openArtefact } from "../../mod.ts";
import { compressAndLook } from "../../examples/library_use/main.ts";
import { fakeRuntime, fakeStages } from "../pipeline/fake_stages.ts";

Deno.test("examples/library_use compresses the bundled model and exports it", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const report = await compressAndLook({
      model: "tests/fixtures/tiny-llama",
      out: `${folder}/out`,
      bits: 1,
      blocks: [0, 0],
      effort: "fast",
      threads: 1,
      stages: { factorization: { use: "dbf-admm", options: { iterations: 4, sweeps: 0 } } },
    });
    assertEquals(report.layers.length, 7);
    assert(report.meanWeightedError! < 0.6);
    assert((await Deno.stat(`${report.exported}/model.onnx`)).isFile);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("examples/custom_stage is loaded as a plugin and keeps the mean of the bits", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const report = await compress({
      model: "tests/fixtures/tiny-llama",
      out: `${folder}/out`,
      bits: 1.5,
      plugins: ["./examples/custom_stage/first_last_wide.ts"],
      stages: {
        allocation: { use: "first-last-wide", options: { ratio: 2 } },
        factorization: "fake",
        target: "listing",
      },
    }, { runtime: fakeRuntime, plugins: fakeStages });
    const rank = (block: number) =>
      report.layers.find(({ name }) => name.includes(`layers.${block}.mlp.up_proj`))!.rank;
    assertGreater(rank(0), 1.9 * rank(1));
    assertEquals(rank(0), rank(3));
    assertAlmostEquals(report.bitsPerWeight, 1.5, 0.02);
    using artefact = await openArtefact(`${folder}/out`);
    const { allocation } = artefact.manifest.fingerprint.stages as Record<string, unknown>;
    assertEquals(allocation, { name: "first-last-wide", options: { blocks: 1, ratio: 2 }, version: "1.0.0" });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a plugin that imports mod.ts works in the program whose main module is mod.ts", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      // deno-fmt-ignore
      args: [
        "run", "--no-check", "-A", "mod.ts", "compress", "tests/fixtures/tiny-llama", `${folder}/out`,
        "--bits", "1", "--blocks", "0-0", "--threads", "1",
        "--plugin", "./examples/custom_stage/first_last_wide.ts", "--set", "allocation=first-last-wide",
        "--set", "factorization.iterations=2", "--set", "factorization.sweeps=0",
      ],
      signal: AbortSignal.timeout(60_000),
    }).output();
    assertEquals(code, 0, new TextDecoder().decode(stderr));
    assert((await Deno.stat(`${folder}/out/onnx/model.onnx`)).isFile);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
