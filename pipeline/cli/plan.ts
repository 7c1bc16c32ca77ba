/**
 * `dbf plan`: what a compression would make and need, from shapes alone.
 *
 * @module
 */
import { readAllocation } from "../artefact/allocation_file.ts";
import { isArtefact } from "../artefact/reader.ts";
import { planArtefact, planRecipe, type RecipePlan } from "../plan_recipe.ts";
import type { Command, CommandInput } from "./command.ts";
import { markAsInput, usageError, whileReadingInput } from "./errors.ts";
import { RECIPE_FLAGS, recipeFromFlags } from "./recipe_flags.ts";
import { codeBitsLabel, renderPairs, renderTable } from "./table.ts";
import { digits3, formatBytes, formatCount, formatDuration } from "./units.ts";

/** The command. */
export const planCommand: Command = {
  name: "plan",
  summary: "per-tensor table, totals, memory, disk and time of a compression; computes nothing unless asked to",
  description:
    "Reads the checkpoint's headers and says what compressing it would make and need, and why each layer gets its bits.\n" +
    "An allocation that measures shows where it starts, what an earlier run in OUT found, or, with --measure, what it finds now.",
  positional: [
    { name: "MODEL", help: "a Hugging Face directory with safetensors, or the OUT of a finished run", optional: true },
    {
      name: "OUT",
      help: "directory of a run: its allocation is shown, and --measure keeps its result there",
      optional: true,
    },
  ],
  flags: {
    ...RECIPE_FLAGS,
    measure: { kind: "switch", help: "run importance and allocation now, where the allocation measures" },
  },
  examples: [
    ["dbf plan ./Llama-2-7b-hf --bits 1.5", "what 1.5 sign bits per weight would give"],
    ["dbf plan ./Llama-2-7b-hf --size 2GiB --dtype f16", "the bits that fit 2 GiB"],
    [
      "dbf plan ./model out --bits 1.5 --set allocation=measured --calibration text.txt --measure",
      "how measured errors divide the bits; compress with the same flags goes on from there",
    ],
    ["dbf plan out", "what a finished run gave each layer, and why"],
  ],
  interrupted: "with OUT, run the same command again to resume",
  async run(input) {
    const report = await planOf(input);
    input.output.result(report, () => renderPlan(report));
  },
};

async function planOf({ positional: [model, out], flags, output, signal }: CommandInput): Promise<RecipePlan> {
  const finished = model !== undefined && out === undefined && await isArtefact(model);
  if (finished) {
    const given = Object.keys(planCommand.flags).find((name) =>
      flags.has(name) && planCommand.flags[name].kind !== "switch"
    );
    if (given !== undefined) {
      throw usageError(
        `Cannot plan "${model}" with --${given}: it is the output of a finished run; give the checkpoint`,
      );
    }
    return await whileReadingInput(() => planArtefact(model));
  }
  if (model !== undefined && out === undefined && await readAllocation(model) !== undefined) {
    throw usageError(`Cannot plan "${model}": it is the output of an unfinished run; write dbf plan MODEL ${model} …`);
  }
  const recipe = await whileReadingInput(() => recipeFromFlags({ model, out: out ?? "." }, flags));
  let started = false;
  try {
    return await planRecipe(recipe, {
      out,
      measure: flags.on("measure"),
      signal,
      onEvent(event) {
        started ||= event.type === "run-start";
        output.event(event);
      },
    });
  } catch (error) {
    throw started ? error : markAsInput(error);
  }
}

const SOURCES: Readonly<Record<RecipePlan["allocation"]["source"], string>> = {
  shapes: "from shapes alone",
  from: "of the run that it goes on from",
  output: "as the run in OUT found",
  measured: "measured now",
  start: "decides while compressing, this is where it starts; --measure runs it now",
};

/** The plan as text: layers, what stays dense, totals. */
export function renderPlan(report: RecipePlan): string {
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
      { title: "why" },
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
      layer.reason,
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
      `${report.signBitsPerWeight.toFixed(3)} ${codeBitsLabel(report.layers)}, ${
        report.effectiveBitsPerWeight.toFixed(3)
      } with scales and padding`,
    ],
    ["allocation", `${report.allocation.stage}, ${SOURCES[report.allocation.source]}`],
    [
      `export in ${dtype}`,
      `${formatBytes(after[dtype])}, ${digits3(before[dtype] / after[dtype])} times smaller than ${
        formatBytes(before[dtype])
      }`,
    ],
    [
      "disk needed",
      formatBytes(report.diskBytes) +
      (report.scratchBytes > 0 ? `, ${formatBytes(report.scratchBytes)} of it only while it runs` : ""),
    ],
    ["peak memory", `${formatBytes(report.peakBytes)} (${report.peak.stage}, ${report.peak.subject})`],
    ...(report.deviceMemory === undefined ? [] : [
      [
        "GPU memory",
        `up to ${
          formatBytes(report.deviceMemory)
        } of activations, training state and caches, beside weights and sessions`,
      ] as const,
    ]),
    [
      "time",
      report.seconds === 0 ? "not known" : `about ${formatDuration(report.seconds)} at ${report.gflops} GFLOP/s`,
    ],
  ]);
  return `${layers}\n\n${totals}`;
}
