/**
 * `dbf doctor`: what of this machine can be used.
 *
 * @module
 */
import { openRuntime } from "../../kernels/runtime/open.ts";
import type { Provider } from "../../kernels/runtime/types.ts";
import { lastRowGraph } from "../evaluate/last_row_graph.ts";
import type { Command } from "./command.ts";
import { messageOf } from "./errors.ts";
import { renderPairs } from "./table.ts";
import { formatBytes } from "./units.ts";
import { VERSION } from "./version.ts";

/** A provider as found. */
interface ProviderCheck {
  readonly provider: Provider;
  readonly usable: boolean;
  readonly binding?: string;
  readonly onnxruntime?: string;
  readonly nativeKernels?: { readonly path: string; readonly isa: string };
  /** Why it cannot be used, and what to do. */
  readonly problem?: string;
}

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
    const providers: ProviderCheck[] = [];
    for (const provider of ["cpu", "cuda", "webgpu"] as const) providers.push(await checkProvider(provider));
    const memory = Deno.systemMemoryInfo();
    const report = {
      dbf: VERSION,
      deno: Deno.version.deno,
      platform: Deno.build.target,
      cores: navigator.hardwareConcurrency,
      memory: { totalBytes: memory.total, availableBytes: memory.available },
      providers,
    };
    output.result(report, () =>
      renderPairs([
        ["dbf", report.dbf],
        ["deno", `${report.deno} (${report.platform})`],
        ["cores", String(report.cores)],
        ["memory", `${formatBytes(memory.available)} of ${formatBytes(memory.total)} free`],
        ...providers.map((check) => [check.provider, describe(check)] as const),
      ]));
  },
};

async function checkProvider(provider: Provider): Promise<ProviderCheck> {
  try {
    await using runtime = await openRuntime({ provider });
    await using session = await runtime.load(lastRowGraph("float32"), { name: "doctor" });
    using logits = runtime.tensor("float32", Float32Array.of(1, 2, 3, 4), [1, 2, 2]);
    const { row } = await session.run({ logits });
    const values = await row.read();
    row[Symbol.dispose]();
    if (String(values) !== "3,4") throw new Error(`a first graph gave ${values} instead of 3,4`);
    const { binding, version, nativeKernels } = runtime;
    return { provider, usable: true, binding, onnxruntime: version, nativeKernels };
  } catch (error) {
    return { provider, usable: false, problem: messageOf(error) };
  }
}

function describe({ usable, binding, onnxruntime, nativeKernels, problem }: ProviderCheck): string {
  if (!usable) return `not usable: ${problem?.split("\n")[0]}`;
  const kernels = nativeKernels === undefined
    ? "portable function bodies (native kernels are not built)"
    : `native kernels (${nativeKernels.isa}, ${nativeKernels.path})`;
  return `onnxruntime ${onnxruntime} through ${binding}, ${kernels}`;
}
