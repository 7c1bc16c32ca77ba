/**
 * `dbf generate`: continues a prompt, streaming text.
 *
 * @module
 */
import { openRuntime } from "../../kernels/runtime/open.ts";
import type { Provider } from "../../kernels/runtime/types.ts";
import { findChatTemplate, renderChat } from "../evaluate/chat.ts";
import { type FinishReason, generate, type GeneratedToken } from "../evaluate/generate.ts";
import type { LanguageModel } from "../evaluate/language_model.ts";
import { openModel } from "../evaluate/open_model.ts";
import { checkSampling } from "../evaluate/sample.ts";
import type { Command } from "./command.ts";
import { whileReadingInput } from "./errors.ts";
import type { FlagValues } from "./flags.ts";
import { COMPUTE_FLAGS } from "./recipe_flags.ts";

/** The command. */
export const generateCommand: Command = {
  name: "generate",
  summary: "continue a prompt with a model and stream the text",
  description: "DIR may be an OUT, an exported directory, or a full-precision Hugging Face directory (exported to a\n" +
    "temporary directory first). The prompt goes through the model's chat template where it has one.",
  positional: [{ name: "DIR", help: "the model" }, { name: "PROMPT", help: "text; quote it" }],
  flags: {
    "max-tokens": { kind: "integer", min: 1, help: "most tokens to generate (default 256, or what the context holds)" },
    temperature: { kind: "number", min: 0, value: "T", help: "0 takes the most likely token (default 0)" },
    "top-k": { kind: "integer", min: 0, value: "K", help: "sample from the K most likely tokens" },
    "top-p": {
      kind: "number",
      min: 0,
      value: "P",
      help: "sample from the most likely tokens that have probability P together",
    },
    "min-p": { kind: "number", min: 0, value: "P", help: "drop tokens less likely than P times the most likely" },
    "repetition-penalty": { kind: "number", min: 0, value: "R", help: "above 1 makes tokens seen before less likely" },
    seed: { kind: "integer", min: 0, help: "seed of sampling (default 0)" },
    chat: { kind: "off", help: "continue the prompt as it is, without the chat template" },
    dtype: { kind: "text", choices: ["f32", "f16"], help: "type in which a checkpoint is exported (default f32)" },
    ...COMPUTE_FLAGS,
  },
  examples: [
    [`dbf generate out "The capital of France is" --max-tokens 20`, "greedy"],
    [`dbf generate out "Tell me a story." --temperature 0.8 --top-p 0.95 --seed 7`, "sampled"],
  ],
  async run({ positional: [path, text], flags, output, signal }) {
    const sampling = {
      temperature: flags.number("temperature"),
      topK: flags.number("top-k"),
      topP: flags.number("top-p"),
      minP: flags.number("min-p"),
      repetitionPenalty: flags.number("repetition-penalty"),
    };
    await whileReadingInput(() => checkSampling(sampling));
    await using runtime = await openRuntime({
      provider: flags.text("provider") as Provider | undefined,
      threads: flags.number("threads"),
    });
    const dtype = flags.text("dtype") === "f16" ? "f16" : "f32";
    await using model = await whileReadingInput(() =>
      openModel(path, runtime, { dtype, signal, onEvent: output.event })
    );
    const prompt = await whileReadingInput(() => encodePrompt(model, text, flags));
    const options = { ...sampling, maxTokens: flags.number("max-tokens"), seed: flags.number("seed"), signal };
    const tokens = generate(model, prompt, options);
    const first = await tokens.next().catch((error) => whileReadingInput(() => Promise.reject(error)));

    const started = performance.now();
    const ids: number[] = [];
    let written = "";
    let next: IteratorResult<GeneratedToken, FinishReason> = first;
    for (; !next.done; next = await tokens.next()) {
      ids.push(next.value.token);
      written += next.value.text;
      output.write(next.value.text);
    }
    output.print("");
    const perSecond = (ids.length - 1) / ((performance.now() - started) / 1000);
    if (output.json) {
      const document = {
        text: written,
        ids,
        promptTokens: prompt.length,
        finish: next.value,
        tokensPerSecond: perSecond,
      };
      output.result(document, () => "");
    }
  },
};

/** Ids of the prompt, through the chat template unless there is none or it is not wanted. */
async function encodePrompt(model: LanguageModel, text: string, flags: FlagValues): Promise<number[]> {
  const tokenizer = await model.tokenizer();
  const template = flags.on("chat") ? await findChatTemplate(tokenizer) : undefined;
  if (template === undefined) return tokenizer.encode(text, { specials: true });
  const rendered = await renderChat(template, [{ role: "user", content: text }], tokenizer.specialTokens);
  return tokenizer.encode(rendered);
}
