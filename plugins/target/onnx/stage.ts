/**
 * The `onnx` target: the whole decoder as one ONNX file that any ONNX Runtime runs.
 *
 * @module
 */
import * as v from "valibot";
import { writeModel } from "../../../pipeline/graph/external_data.ts";
import { buildDecoder } from "../../../pipeline/model/decoder_graph.ts";
import { defineStage, type Stage } from "../../../pipeline/stream/stage.ts";
import { LAYER_BUILDERS, streamedWeights } from "./weights.ts";

/** Options of the target: none. */
export const onnxTargetOptions = v.strictObject({});

/** Bytes held while external data is written: a transposed matrix, another not yet collected, panels, one packed layer. */
const PEAK_BYTES = 600 << 20;

/**
 * Writes `model.onnx` and `model.onnx.data`: token embedding, blocks, final norm, head; key/value cache, attention mask
 * and position ids as onnxruntime-genai and transformers.js name them. Double-binary layers are `ai.dbf::BinaryMatMul`
 * nodes with their body in standard operators, so stock runtimes run the file.
 */
export const onnxTarget: Stage<"target", typeof onnxTargetOptions> = defineStage({
  kind: "target",
  scope: "model",
  name: "onnx",
  version: "1.0.0",
  description: "One ONNX decoder with a key/value cache; binary layers are custom nodes with a portable body.",
  options: onnxTargetOptions,
  estimate: () => ({ peakBytes: PEAK_BYTES }),
  async run({ source, model, directory, dtype, tables }, _options, { signal, emit }) {
    const type = dtype === "f16" ? "float16" : "float32";
    const graph = buildDecoder(model, streamedWeights(source, model, type, LAYER_BUILDERS, tables), { dtype });
    const { files } = await writeModel(graph, directory, "model.onnx", {
      signal,
      onProgress: (progress) => emit({ type: "export-progress", ...progress }),
      metadata: { "dbf.architecture": model.architecture, "dbf.dtype": dtype },
    });
    return { files };
  },
});
