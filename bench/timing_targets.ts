/**
 * Export targets for `bench/generate.ts`: the linear layers of a checkpoint as MatMulNBits of 4 bits, rounded to nearest, or
 * as double-binary layers of random signs. Only their time means something.
 *
 * @module
 */
import * as v from "valibot";
import { packedBytes, packedShape } from "../kernels/layout.ts";
import { writeModel } from "../pipeline/graph/external_data.ts";
import { mul } from "../pipeline/graph/ops.ts";
import type { ExternalSource } from "../pipeline/graph/types.ts";
import { buildDecoder } from "../pipeline/model/decoder_graph.ts";
import { defineStage, type Stage } from "../pipeline/stream/stage.ts";
import { binaryMatMul } from "../plugins/target/onnx/dbf_layer.ts";
import { denseLayer, denseTensor } from "../plugins/target/onnx/dense_layer.ts";
import type { LayerBuilder } from "../plugins/target/onnx/layer.ts";
import { streamedWeights } from "../plugins/target/onnx/weights.ts";

/** Columns that share a scale. */
const BLOCK = 32;
const noOptions = v.strictObject({});

/** Codes (rows, cols/32, 16) and scales (rows · cols/32): w ≈ s · (code − 8), s = max |w| / 7 over a block. */
function quantize(weights: Float32Array): { codes: Uint8Array<ArrayBuffer>; scales: Float32Array<ArrayBuffer> } {
  const codes = new Uint8Array(weights.length / 2), scales = new Float32Array(weights.length / BLOCK);
  for (let block = 0; block < scales.length; block++) {
    const from = block * BLOCK;
    let largest = 0;
    for (let i = from; i < from + BLOCK; i++) largest = Math.max(largest, Math.abs(weights[i]));
    scales[block] = largest / 7;
    const inverse = largest === 0 ? 0 : 7 / largest;
    for (let i = from; i < from + BLOCK; i += 2) {
      const low = Math.round(weights[i] * inverse) + 8, high = Math.round(weights[i + 1] * inverse) + 8;
      codes[i >> 1] = low | high << 4;
    }
  }
  return { codes, scales };
}

function streamed(byteLength: number, make: () => Promise<Uint8Array> | Uint8Array): ExternalSource {
  return {
    byteLength,
    async *chunks() {
      yield await make();
    },
  };
}

/** MatMulNBits with int8 activations; the head stays dense. */
const fourBitLayer: LayerBuilder = (g, layer, x) => {
  const { linear: { weight, rows, cols, role }, source } = layer;
  if (role === "lm_head" || cols % BLOCK !== 0) return denseLayer(g, layer, x);
  const tensor = denseTensor(source, weight, [rows, cols]), blocks = cols / BLOCK;
  const read = async () => quantize(await tensor.readRows(0, rows));
  const codes = g.initializer(
    `${weight}.codes`,
    "uint8",
    [rows, blocks, BLOCK / 2],
    streamed(rows * cols / 2, async () => (await read()).codes),
  );
  const scales = g.initializer(
    `${weight}.scales`,
    "float32",
    [rows * blocks],
    streamed(4 * rows * blocks, async () => new Uint8Array((await read()).scales.buffer)),
  );
  const attributes = { K: cols, N: rows, bits: 4, block_size: BLOCK, accuracy_level: 4 };
  const outputs = [{ dtype: x.dtype, shape: [...x.shape.slice(0, -1), rows] }];
  return g.node("MatMulNBits", [x, codes, scales], attributes, { domain: "com.microsoft", outputs })[0];
};

/** Random signs, with scales that keep the size of activations. */
function randomBinaryLayer(bits: number): LayerBuilder {
  return (g, layer, x) => {
    const { linear: { weight, rows, cols, role } } = layer;
    if (role === "lm_head") return denseLayer(g, layer, x);
    const rank = Math.floor(bits * rows * cols / (rows + cols));
    const signs = (name: string, N: number, K: number) =>
      g.initializer(
        `${weight}.${name}`,
        "uint8",
        packedShape(N, K),
        streamed(packedBytes(N, K), () => {
          const bytes = new Uint8Array(packedBytes(N, K));
          for (let at = 0; at < bytes.length; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
          return bytes;
        }),
      );
    const scale = (name: string, size: number, value: number) =>
      g.initializer(
        `${weight}.${name}`,
        "float32",
        [size],
        streamed(4 * size, () => new Uint8Array(new Float32Array(size).fill(value).buffer)),
      );
    const h = binaryMatMul(
      g,
      mul(g, x, scale("b", cols, 1 / Math.sqrt(cols))),
      signs("B", rank, cols),
      scale("mid", rank, 1 / Math.sqrt(rank)),
      rank,
      cols,
    );
    return binaryMatMul(g, h, signs("A", rows, rank), scale("a", rows, 0.5), rows, rank);
  };
}

function target(name: string, builder: LayerBuilder): Stage<"target", typeof noOptions> {
  return defineStage({
    kind: "target",
    scope: "model",
    name,
    version: "1.0.0",
    description: "For timing only.",
    options: noOptions,
    estimate: () => ({ peakBytes: 600 << 20 }),
    async run({ source, model, directory, dtype }, _options, { signal }) {
      const graph = buildDecoder(model, streamedWeights(source, model, "float32", { dense: builder }), { dtype });
      const { files } = await writeModel(graph, directory, "model.onnx", { signal });
      return { files };
    },
  });
}

/** Exports a checkpoint's linear layers as MatMulNBits of 4 bits, rounded to nearest. */
export const fourBitTarget: Stage<"target", typeof noOptions> = target("bench-4bit", fourBitLayer);

/** Exports random double-binary layers of a checkpoint's shapes. */
export function randomBinaryTarget(bits: number): Stage<"target", typeof noOptions> {
  return target("bench-dbf", randomBinaryLayer(bits));
}
