/**
 * `dbf plan`: what a compression would make and need, from shapes alone.
 *
 * @module
 */
import { builtinStages } from "../../plugins/mod.ts";
import { openCheckpoint } from "../checkpoint/open.ts";
import { selectLayers } from "../start_run.ts";
import { planRun } from "../plan/plan.ts";
import type { PlanReport } from "../plan/types.ts";
import { loadPlugins } from "../recipe/plugin_loader.ts";
import { plannedStages, resolveStages, storageOfRun } from "../recipe/resolve.ts";
import type { Command } from "./command.ts";
import { whileReadingInput } from "./errors.ts";
import { RECIPE_FLAGS, recipeFromFlags } from "./recipe_flags.ts";
import { renderPairs, renderTable } from "./table.ts";
import { digits3, formatBytes, formatCount, formatDuration } from "./units.ts";

/** The command. */
export const planCommand: Command = {
  name: "plan",
  summary: "per-tensor table, totals, memory, disk and time of a compression; computes nothing",
  description: "Reads the checkpoint's headers and says what compressing it would make and need.",
  positional: [{ name: "MODEL", help: "a Hugging Face directory with safetensors", optional: true }],
  flags: RECIPE_FLAGS,
  examples: [
    ["dbf plan ./Llama-2-7b-hf --bits 1.5", "what 1.5 sign bits per weight would give"],
    ["dbf plan ./Llama-2-7b-hf --size 2GiB --dtype f16", "the bits that fit 2 GiB"],
  ],
  async run({ positional, flags, output, signal }) {
    const report = await whileReadingInput(async () => {
      const recipe = await recipeFromFlags({ model: positional[0], out: "." }, flags);
      const plugins = await loadPlugins(recipe.plugins, { builtins: builtinStages });
      const stages = resolveStages(recipe, [...builtinStages, ...plugins]);
      using checkpoint = await openCheckpoint(recipe.model, { signal });
      return planRun({
        inventory: selectLayers(recipe, checkpoint, stages),
        bitsPerWeight: recipe.bits,
        sizeBytes: recipe.size,
        storageOf: storageOfRun(stages),
        stages: plannedStages(stages),
        dtype: recipe.dtype,
        parallelJobs: recipe.parallel,
        memoryBytes: recipe.memory,
      });
    });
    output.result(report, () => renderPlan(report));
  },
};

/** The plan as text: layers, what stays dense, totals. */
export function renderPlan(report: PlanReport): string {
  const layers = renderTable(
    [
      { title: "layer" },
      { title: "rows × cols", align: "right" },
      { title: "kind" },
      { title: "k", align: "right" },
      { title: "bits", align: "right" },
      { title: "effective", align: "right" },
      { title: "packed", align: "right" },
      { title: "peak", align: "right" },
    ],
    report.layers.map((layer) => [
      layer.name.replace(/\.weight$/, ""),
      `${layer.rows} × ${layer.cols}`,
      layer.kind,
      layer.rank > 0 ? String(layer.rank) : "",
      digits3(layer.signBitsPerWeight),
      digits3(layer.effectiveBitsPerWeight),
      formatBytes(layer.packedBytes),
      formatBytes(layer.peakBytes),
    ]),
  );
  const denseElements = report.dense.reduce((sum, { elements }) => sum + elements, 0);
  const large = report.dense.filter(({ elements }) => elements >= report.parameters / 100);
  const others = report.dense.length - large.length;
  const dense = [
    ...large.map(({ name, shape }) => `${name} (${shape.join(" × ")})`),
    ...(others > 0 ? [`${others} small tensors`] : []),
  ].join(", ");
  const { exportBytes: after, uncompressedExportBytes: before, dtype } = report;
  const totals = renderPairs([
    ["model", `${report.architecture}, ${report.blocks} blocks, ${formatCount(report.parameters)} parameters`],
    ["compressed", `${report.layers.length} layers, ${formatCount(report.compressedParameters)} parameters`],
    ["dense", `${formatCount(denseElements)} parameters: ${dense}`],
    [
      "bits per weight",
      `${report.signBitsPerWeight.toFixed(3)} sign bits, ${
        report.effectiveBitsPerWeight.toFixed(3)
      } with scales and padding`,
    ],
    [
      `export in ${dtype}`,
      `${formatBytes(after[dtype])}, ${digits3(before[dtype] / after[dtype])} times smaller than ${
        formatBytes(before[dtype])
      }`,
    ],
    ["disk needed", formatBytes(report.diskBytes)],
    ["peak memory", `${formatBytes(report.peakBytes)} (${report.peak.stage}, ${report.peak.subject})`],
    [
      "time",
      report.seconds === 0 ? "not known" : `about ${formatDuration(report.seconds)} at ${report.gflops} GFLOP/s`,
    ],
  ]);
  return `${layers}\n\n${totals}`;
}
