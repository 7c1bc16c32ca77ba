/**
 * Graphs of `bench/kernels.ts`: copies of one layer with distinct weights, each on its own slice of the input.
 *
 * @module
 */
import { packedBytes, packedShape } from "../kernels/layout.ts";
import { createGraph } from "../pipeline/graph/graph.ts";
import { encodeModel } from "../pipeline/graph/encode.ts";
import { matMul, mul } from "../pipeline/graph/ops.ts";
import type { Graph, Value } from "../pipeline/graph/types.ts";
import { binaryMatMul } from "../plugins/target/onnx/dbf_layer.ts";

/** A linear layer: `rows` activations of `cols` features to `outputs` features. */
export interface LayerShape {
  readonly rows: number;
  readonly outputs: number;
  readonly cols: number;
}

/** A way to store and run a layer. */
export interface Contender {
  readonly name: string;
  /** Bytes of one layer's weights. */
  bytes(shape: LayerShape): number;
  /** Adds layer `index`, with weights of its own, to the graph. */
  layer(g: Graph, x: Value, shape: LayerShape, index: number): Value;
  /** Accuracy of dbf's kernels. */
  readonly accuracy?: "exact" | "fast";
}

/** Random bytes: the time of no kernel here depends on the values. */
function randomBytes(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  return bytes;
}

/** A double-binary layer at `bits` sign bits a weight: two products through a middle dimension. */
export function doubleBinary(bits: number, accuracy: "exact" | "fast"): Contender {
  const middle = ({ outputs, cols }: LayerShape) => Math.floor(bits * outputs * cols / (outputs + cols));
  return {
    name: `dbf ${bits}-bit ${accuracy}`,
    accuracy,
    bytes: (shape) => packedBytes(middle(shape), shape.cols) + packedBytes(shape.outputs, middle(shape)),
    layer(g, x, shape, index) {
      const { outputs, cols } = shape, rank = middle(shape);
      const signs = (name: string, N: number, K: number) =>
        g.initializer(`${name}${index}`, "uint8", packedShape(N, K), randomBytes(packedBytes(N, K)));
      const scale = (name: string, size: number) =>
        g.initializer(`${name}${index}`, "float32", [size], new Float32Array(size).fill(0.01));
      const h = binaryMatMul(g, mul(g, x, scale("b", cols)), signs("B", rank, cols), scale("mid", rank), rank, cols);
      return binaryMatMul(g, h, signs("A", outputs, rank), scale("a", outputs), outputs, rank);
    },
  };
}

/** ONNX Runtime's block-quantized product with int8 activations. */
export function matMulNBits(bits: 2 | 4, block: number): Contender {
  const parts = ({ outputs, cols }: LayerShape) => ({ blocks: Math.ceil(cols / block), rows: outputs });
  return {
    name: `MatMulNBits ${bits}-bit, block ${block}`,
    bytes(shape) {
      const { blocks, rows } = parts(shape);
      return rows * blocks * (block * bits / 8 + 4);
    },
    layer(g, x, shape, index) {
      const { blocks, rows } = parts(shape), size = block * bits / 8;
      const weights = g.initializer(`q${index}`, "uint8", [rows, blocks, size], randomBytes(rows * blocks * size));
      const scales = g.initializer(`s${index}`, "float32", [rows * blocks], new Float32Array(rows * blocks).fill(0.01));
      return g.node("MatMulNBits", [x, weights, scales], {
        K: shape.cols,
        N: rows,
        bits,
        block_size: block,
        accuracy_level: 4,
      }, { domain: "com.microsoft", outputs: [{ dtype: x.dtype, shape: [shape.rows, rows] }] })[0];
    },
  };
}

/** ONNX Runtime's product of f32 matrices. */
export const denseMatMul: Contender = {
  name: "MatMul f32",
  bytes: ({ outputs, cols }) => 4 * outputs * cols,
  layer(g, x, { outputs, cols }, index) {
    return matMul(
      g,
      x,
      g.initializer(`w${index}`, "float32", [cols, outputs], new Float32Array(outputs * cols).fill(0.01)),
    );
  },
};

/** A model of `copies` layers, each on its own input `x<i>` (rows, cols) and with its own output. */
export function layersModel(contender: Contender, shape: LayerShape, copies: number): Uint8Array {
  const g = createGraph("layers", { imports: { "com.microsoft": 1 } });
  for (let i = 0; i < copies; i++) {
    const x = g.input(`x${i}`, "float32", [shape.rows, shape.cols]);
    g.output(`y${i}`, contender.layer(g, x, shape, i));
  }
  return encodeModel(g);
}
