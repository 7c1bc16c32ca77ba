/**
 * The pipeline as a library: open a checkpoint, plan, compress, look at what was made.
 *
 * ```sh
 * deno run --allow-read --allow-write --allow-env --allow-sys --allow-ffi examples/library_use/main.ts MODEL OUT
 * ```
 *
 * @module
 */
import {
  compress,
  type CompressReport,
  describeCheckpoint,
  factorsOfKind,
  inventory,
  openArtefact,
  openCheckpoint,
  planRun,
  type RecipeInput,
  unpackFactors,
} from "../../mod.ts";

/** Plans and runs a compression, prints a few lines about it, and returns its report. */
export async function compressAndLook(recipe: RecipeInput): Promise<CompressReport> {
  // Nothing is read beyond headers: this works for a 70B checkpoint on a laptop.
  {
    using checkpoint = await openCheckpoint(recipe.model);
    const plan = planRun({
      inventory: inventory(describeCheckpoint(checkpoint), { keep: recipe.keep, blocks: recipe.blocks }),
      bitsPerWeight: recipe.bits,
    });
    console.log(`${plan.layers.length} layers, about ${(plan.exportBytes.f32 / 1e6).toFixed(1)} MB exported`);
  }

  const report = await compress(recipe, {
    onEvent(event) {
      if (event.type !== "layer-committed") return;
      const error = event.weightedError?.toFixed(4) ?? "unknown";
      console.log(`${event.done}/${event.total} ${event.layer}: relative error ${error}`);
    },
  });

  // The artefact stands for itself: the checkpoint is not needed any more.
  using artefact = await openArtefact(report.out);
  const [{ name, rows, cols }] = report.layers;
  const factors = factorsOfKind(name, unpackFactors(name, [rows, cols], await artefact.layer(name)), "dbf");
  console.log(`${name}: ${rows}x${cols} as signs ${rows}x${factors.rank} and ${factors.rank}x${cols}`);
  console.log(`exported to ${report.exported}`);
  return report;
}

if (import.meta.main) {
  const [model, out] = Deno.args;
  if (out === undefined) {
    console.error("usage: main.ts MODEL OUT");
    Deno.exit(2);
  }
  await compressAndLook({ model, out, bits: 2, effort: "fast" });
}
