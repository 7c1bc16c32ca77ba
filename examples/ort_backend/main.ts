/**
 * Ordinary onnxruntime code with dbf's operators: a function that knows nothing of dbf runs a model whose binary matmul
 * exists only in dbf's native library.
 *
 * Run it with `deno run -A examples/ort_backend/main.ts`, after `deno task kernels` built the library.
 *
 * @module
 */
import { createGraph, DBF_DOMAIN, encodeModel, packedShape, packSigns } from "../../mod.ts";
import { registerOrtBackend } from "../../kernels/runtime/ort_backend.ts";

const [N, K] = [16, 32];

/** Someone else's code: plain onnxruntime. */
async function rowSums(model: Uint8Array): Promise<number[]> {
  const { InferenceSession, Tensor } = await import("onnxruntime-node");
  const session = await InferenceSession.create(model, { executionProviders: ["cpu"] });
  const { y } = await session.run({ x: new Tensor("float32", new Float32Array(K).fill(1), [1, K]) });
  await session.release();
  return Array.from(y.data as Float32Array);
}

/** `y = BinaryMatMul(x, B, 1)` in which row i of the signs has i ones: without a portable body, stock onnxruntime refuses it. */
export function binaryModel(): Uint8Array {
  const g = createGraph("binary", {});
  const words = Uint32Array.from({ length: N }, (_, row) => 2 ** row - 1);
  const x = g.input("x", "float32", [1, K]);
  const b = g.initializer("B", "uint8", packedShape(N, K), packSigns({ rows: N, cols: K, words }));
  const scale = g.initializer("scale", "float32", [N], new Float32Array(N).fill(1));
  const outputs = [{ dtype: "float32", shape: [1, N] }] as const;
  g.output("y", g.node("BinaryMatMul", [x, b, scale], { K, N }, { domain: DBF_DOMAIN, outputs })[0]);
  return encodeModel(g);
}

/** Registers dbf, before anything imports onnxruntime-node, and lets the other code run. */
export async function main(): Promise<number[]> {
  await using runtime = await registerOrtBackend({ threads: 1 });
  if (runtime.nativeKernels === undefined) throw new Error("Cannot run without the native kernels: deno task kernels");
  return await rowSums(binaryModel());
}

// Row i has i ones and K − i minus ones: 2i − K.
if (import.meta.main) console.log((await main()).join(" "));
