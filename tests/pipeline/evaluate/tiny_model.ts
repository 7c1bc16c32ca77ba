/** tiny-llama as a language model from a graph in memory, for tests of generation and evaluation. */
import { encodeModel } from "../../../pipeline/graph/encode.ts";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { openDecoder } from "../../../pipeline/evaluate/decoder_session.ts";
import type { LanguageModel } from "../../../pipeline/evaluate/language_model.ts";
import { loadTokenizer } from "../../../pipeline/evaluate/tokenizer.ts";
import { buildDecoder } from "../../../pipeline/model/decoder_graph.ts";
import { fixture, memoryWeights } from "../model/golden.ts";

/** Opens it on the CPU; disposing it closes the runtime too. */
export async function openTinyLlama(): Promise<LanguageModel> {
  const path = fixture("tiny-llama");
  const { model, weights, checkpoint } = await memoryWeights("tiny-llama");
  using _ = checkpoint;
  const runtime = await openRuntime({ threads: 1 });
  const session = await runtime.load(encodeModel(buildDecoder(model, weights)));
  return {
    path,
    graph: "memory",
    contextLength: model.maxPositions,
    vocabularySize: model.vocabularySize,
    eos: model.tokens.eos,
    decoder: openDecoder(session, runtime),
    tokenizer: () => loadTokenizer(path),
    async [Symbol.asyncDispose]() {
      await session[Symbol.asyncDispose]();
      await runtime[Symbol.asyncDispose]();
    },
  };
}
