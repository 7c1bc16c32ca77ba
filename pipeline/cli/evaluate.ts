/**
 * `dbf evaluate`: perplexity on a text, and the distance to a baseline.
 *
 * @module
 */
import { openRuntime } from "../../kernels/runtime/open.ts";
import type { Provider } from "../../kernels/runtime/types.ts";
import { readTokens } from "../calibrate/text.ts";
import { evaluate, type EvaluationResult } from "../evaluate/evaluate.ts";
import { openModel } from "../evaluate/open_model.ts";
import type { Command } from "./command.ts";
import { whileReadingInput } from "./errors.ts";
import { COMPUTE_FLAGS } from "./recipe_flags.ts";
import { renderPairs } from "./table.ts";

/** The command. */
export const evaluateCommand: Command = {
  name: "evaluate",
  summary: "perplexity of a model on a text; against a baseline also KL divergence and same-top-1",
  description:
    "Windows of the text are consecutive and do not overlap; the first token of each is not scored, a rest shorter\n" +
    "than a window is left out, no special tokens are added. KL(baseline ‖ model) is in nats per scored token.",
  positional: [{ name: "DIR", help: "an OUT, an exported directory, or a Hugging Face directory" }],
  flags: {
    text: { kind: "text", value: "FILE", help: "text, .jsonl, or token ids (.json, .i32); required" },
    context: { kind: "integer", min: 2, help: "tokens a window (default the model's context, at most 2048)" },
    tokens: { kind: "integer", min: 2, help: "use the first N tokens of the text (default all)" },
    baseline: { kind: "text", value: "MODEL", help: "the full-precision model, in any form that DIR may have" },
    memory: { kind: "bytes", help: "bound of the logits in flight (default 512MiB)" },
    dtype: { kind: "text", choices: ["f32", "f16"], help: "type in which a checkpoint is exported (default f32)" },
    ...COMPUTE_FLAGS,
  },
  examples: [
    ["dbf evaluate out --text heldout.txt --context 1024", "perplexity"],
    [
      "dbf evaluate out --text heldout.txt --tokens 50000 --baseline ./SmolLM2-135M",
      "beside the original, on the same tokens",
    ],
  ],
  async run({ positional: [path], flags, output, signal }) {
    const text = flags.text("text");
    const baselinePath = flags.text("baseline");
    await whileReadingInput(async () => {
      if (text === undefined) throw new TypeError("Cannot evaluate without a text: give --text FILE");
      if (!await isFile(text)) throw new Deno.errors.NotFound(`Cannot read --text "${text}": there is no such file`);
    });
    await using runtime = await openRuntime({
      provider: flags.text("provider") as Provider | undefined,
      threads: flags.number("threads"),
    });
    const open = { dtype: flags.text("dtype") === "f16" ? "f16" : "f32", signal, onEvent: output.event } as const;
    await using model = await whileReadingInput(() => openModel(path, runtime, open));
    await using baseline = baselinePath === undefined
      ? undefined
      : await whileReadingInput(() => openModel(baselinePath, runtime, open));
    const ids = await whileReadingInput(() => readTokens(text!, model, { limit: flags.number("tokens") }));
    const context = flags.number("context");
    if (context !== undefined) {
      const limit = Math.min(model.contextLength, baseline?.contextLength ?? Infinity);
      await whileReadingInput(() => checkContext(context, limit));
    }
    const result = await evaluate(model, ids, {
      context,
      baseline,
      memoryBytes: flags.number("memory"),
      signal,
      onEvent: output.event,
    });
    const { baselinePerplexity: _, ...document } = result; // scripts rely on exactly these fields
    output.result(document, () => renderEvaluation(result));
  },
};

function checkContext(context: number, limit: number): void {
  if (context > limit) throw new RangeError(`Cannot use ${context} as --context: the model's is ${limit}`);
}

async function isFile(path: string): Promise<boolean> {
  return await Deno.stat(path).then((info) => info.isFile, () => false);
}

/** The result as text. */
export function renderEvaluation(result: EvaluationResult): string {
  const { kl, sameTop1, baselinePerplexity } = result;
  const number = (value: number) => value.toPrecision(4);
  return renderPairs([
    ["perplexity", `${result.perplexity.toFixed(3)} ± ${result.perplexityStderr.toFixed(3)}`],
    ...(baselinePerplexity === undefined ? [] : [["baseline", baselinePerplexity.toFixed(3)] as const]),
    ["tokens", `${result.tokens} scored, in windows of ${result.context}`],
    ...(kl === undefined ? [] : [
      [
        "KL(baseline ‖ model)",
        `mean ${number(kl.mean)}, median ${number(kl.p50)}, 99 % ${number(kl.p99)}, max ${number(kl.max)} nats`,
      ] as const,
    ]),
    ...(sameTop1 === undefined ? [] : [["same top token", `${(100 * sameTop1).toFixed(2)} %`] as const]),
  ]);
}
