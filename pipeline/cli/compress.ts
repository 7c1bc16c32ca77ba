/**
 * `dbf compress`: a checkpoint to an artefact and an ONNX model.
 *
 * @module
 */
import { compress } from "../compress.ts";
import type { CompressReport } from "../compress_report.ts";
import type { Command } from "./command.ts";
import { markAsInput, whileReadingInput } from "./errors.ts";
import { RECIPE_FLAGS, recipeFromFlags } from "./recipe_flags.ts";
import { codeBitsLabel, renderPairs } from "./table.ts";
import { formatBytes, formatDuration } from "./units.ts";

/** The command. */
export const compressCommand: Command = {
  name: "compress",
  summary: "compress a checkpoint: artefact in OUT, ONNX in OUT/onnx; run again it resumes",
  description:
    "Streams the model's layers through the recipe's stages, one at a time, and commits each as it is done.\n" +
    "Interrupted, the same command continues where it was. A finished OUT can be exported again without factorizing.",
  positional: [
    { name: "MODEL", help: "a Hugging Face directory with safetensors", optional: true },
    { name: "OUT", help: "directory for the result", optional: true },
  ],
  flags: {
    ...RECIPE_FLAGS,
    restart: { kind: "switch", help: "throw away what an earlier run left in OUT" },
  },
  examples: [
    ["dbf compress ./SmolLM2-135M out --bits 2", "weights only, 2 sign bits per weight"],
    ["dbf compress ./SmolLM2-135M out --bits 1.5 --calibration text.txt", "measured and tuned on text"],
    ["dbf compress ./model out --size 60MB --keep 'layers\\.0\\.'", "a size, with the first block left dense"],
    ["dbf compress --recipe recipe.json --set factorization.iterations=60", "a recipe file, one option changed"],
  ],
  interrupted: "run the same command again to resume",
  async run({ positional, flags, output, signal }) {
    const recipe = await whileReadingInput(() => recipeFromFlags({ model: positional[0], out: positional[1] }, flags));
    let started = false;
    try {
      const report = await compress(recipe, {
        signal,
        restart: flags.on("restart"),
        onEvent(event) {
          started ||= event.type === "run-start";
          output.event(event);
        },
      });
      output.result(report, () => renderReport(report));
    } catch (error) {
      throw started ? error : markAsInput(error);
    }
  },
};

/** The report as text. */
export function renderReport(report: CompressReport): string {
  const error = report.meanWeightedError;
  const worst = report.layers.reduce<CompressReport["layers"][number] | undefined>(
    (most, layer) => (layer.weightedError ?? 0) > (most?.weightedError ?? 0) ? layer : most,
    undefined,
  );
  return renderPairs([
    ["layers", `${report.layers.length} compressed, ${report.denseTensors} tensors dense`],
    [
      "bits per weight",
      `${report.bitsPerWeight.toFixed(3)} ${codeBitsLabel(report.layers)}, ${
        report.effectiveBitsPerWeight.toFixed(3)
      } with scales and padding`,
    ],
    ...(error === undefined ? [] : [
      [
        "weighted error",
        `mean ${error.toPrecision(3)}` +
        (worst === undefined
          ? ""
          : `, worst ${worst.weightedError!.toPrecision(3)} (${worst.name.replace(/\.weight$/, "")})`),
      ] as const,
    ]),
    ["artefact", `${report.out} (${formatBytes(report.artefactBytes)})`],
    ["model", report.exported],
    [
      "time",
      formatDuration(report.elapsedMs / 1000) +
      (report.resumedLayers > 0 ? `, ${report.resumedLayers} layers were there` : ""),
    ],
  ]);
}
