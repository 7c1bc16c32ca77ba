/**
 * `deno task bench NAME [options]`: the measurements behind the numbers in this repository.
 *
 * @module
 */

/** Each bench is a module with `main(args)`. */
interface Bench {
  readonly summary: string;
  load(): Promise<{ main(args: readonly string[]): Promise<void> }>;
}

const BENCHES: Readonly<Record<string, Bench>> = {
  runtime: {
    summary: "session interface: call overhead, event loop, device tensors",
    load: () => import("./runtime.ts"),
  },
  kernels: {
    summary: "operator library against ONNX Runtime's own products; --provider cuda: on a GPU",
    load: () => import("./kernels.ts"),
  },
  generate: { summary: "tokens per second of whole models, beside f32 and 4-bit", load: () => import("./generate.ts") },
  factorize: { summary: "factorization of one layer against the reference", load: () => import("./factorize.ts") },
  quality: { summary: "perplexity and KL divergence after calibrated compression", load: () => import("./quality.ts") },
  allocation: {
    summary: "bits divided among layers in each way, with the same budget and tuning",
    load: () => import("./allocation.ts"),
  },
  baselines: {
    summary: "double-binary layers beside signs, rounding, HQQ and GPTQ",
    load: () => import("./baselines.ts"),
  },
  memory: { summary: "peak memory on a checkpoint of 141 GB", load: () => import("./memory.ts") },
  stage_memory: {
    summary: "peak memory of importance, tuning and distillation against plan's",
    load: () => import("./stage_memory.ts"),
  },
  crash: { summary: "runs killed at random points resume", load: () => import("./crash.ts") },
  fuzz: { summary: "mutated files against every reader", load: () => import("./fuzz.ts") },
};

const [name, ...args] = Deno.args;
const bench = BENCHES[name];
if (bench === undefined) {
  console.error(`usage: deno task bench NAME [options]\n`);
  for (const [each, { summary }] of Object.entries(BENCHES)) console.error(`  ${each.padEnd(10)} ${summary}`);
  Deno.exit(2);
}
await (await bench.load()).main(args);
