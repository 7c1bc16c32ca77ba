/**
 * `dbf doctor`: what of this machine can be used.
 *
 * @module
 */
import { diagnose, type Diagnosis, type ProviderFacts } from "../../kernels/runtime/doctor.ts";
import type { Command } from "./command.ts";
import { renderPairs } from "./table.ts";
import { formatBytes } from "./units.ts";
import { VERSION } from "./version.ts";

/** The command. */
export const doctorCommand: Command = {
  name: "doctor",
  summary: "what of this machine can be used: providers, kernels, versions",
  description:
    "Runs a small graph on every provider and says which work, through which binding, with which kernels, and what is missing.",
  positional: [],
  flags: {},
  examples: [["dbf doctor", "check this machine"], ["dbf doctor --json", "the same for a bug report"]],
  async run({ output }) {
    const report = {
      dbf: VERSION,
      deno: Deno.version.deno,
      platform: Deno.build.target,
      ...await diagnose(),
    };
    output.result(report, () =>
      renderPairs([
        ["dbf", report.dbf],
        ["deno", `${report.deno} (${report.platform})`],
        ["onnxruntime", describeLibrary(report.onnxruntime)],
        ["cores", `${report.cores}${report.instructionSets.length > 0 ? `, ${report.instructionSets.join(" ")}` : ""}`],
        ["memory", describeMemory(report.memory)],
        ["nvidia", report.nvidia ?? "no GPU seen (nvidia-smi is absent, or may not be run: --allow-run=nvidia-smi)"],
        ...report.providers.map((facts) => [facts.provider, describeProvider(facts)] as const),
        ...report.missingPermissions.map(({ permission, flag, neededFor }) =>
          [`no ${permission} permission`, `${flag} is needed for ${neededFor}`] as const
        ),
      ]));
  },
};

function describeLibrary({ path, version, problem, callsThrough }: Diagnosis["onnxruntime"]): string {
  if (version === undefined) return `not usable: ${firstLine(problem)}`;
  return `${version}, ${path}, called ${callsThrough === undefined ? "by address" : `through ${callsThrough}`}`;
}

function describeMemory(memory: Diagnosis["memory"]): string {
  if (memory === undefined) return "unknown";
  return `${formatBytes(memory.availableBytes)} of ${formatBytes(memory.totalBytes)} free`;
}

function describeProvider(facts: ProviderFacts): string {
  const { usable, binding, nativeKernels, nativeKernelsPath, problem, missing = [], remedy } = facts;
  if (!usable) {
    const why = missing.length > 0 ? `missing ${missing.join(", ")}` : firstLine(problem);
    return `not usable: ${why}${remedy === undefined ? "" : `; ${remedy}`}`;
  }
  const through = `through ${binding === "c-api" ? "ONNX Runtime's C API" : binding}`;
  if (nativeKernels !== undefined) return `${through}, native kernels (${nativeKernels.isa}, ${nativeKernels.path})`;
  return nativeKernelsPath === undefined
    ? `${through}, portable function bodies (this provider takes no native kernels)`
    : `${through}, portable function bodies (no native kernels at ${nativeKernelsPath})`;
}

function firstLine(text = ""): string {
  return text.split("\n")[0];
}
