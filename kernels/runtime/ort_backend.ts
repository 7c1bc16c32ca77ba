/**
 * dbf as a backend of onnxruntime-common: code of other libraries that calls `InferenceSession.create(...)` then runs on dbf's
 * sessions, with its native operators, 16-bit tensors and runs that leave the event loop alive.
 *
 * @module
 */
import { createRequire } from "node:module";
import type * as ort from "onnxruntime-node";
import { openRuntime } from "./open.ts";
import type {
  DType,
  Runtime,
  RuntimeOptions,
  Session,
  SessionOptions,
  Tensor,
  TensorData,
  ValueInfo,
} from "./types.ts";

/** onnxruntime-node registers its own backends with 100; the higher number serves sessions that name no provider. */
const PRIORITY = 200;

/** Name of the backend, for sessions that ask for it: `executionProviders: ["dbf"]`. */
export const ORT_BACKEND = "dbf";

type Handler = Awaited<ReturnType<ort.Backend["createInferenceSessionHandler"]>>;

/**
 * Registers dbf in the instance of onnxruntime-common that onnxruntime-node uses. It serves sessions that name no execution
 * provider or `"dbf"`; those that name the runtime's own (`"cpu"`) too where this was called before onnxruntime-node was first
 * imported, as onnxruntime-common keeps the first of a name. There is no way to unregister: keep the runtime open as long as
 * such sessions are made or run.
 *
 * @returns The runtime on which they run.
 * @throws {Error} as `openRuntime` does.
 */
export async function registerOrtBackend(options: RuntimeOptions = {}): Promise<Runtime> {
  const api = common();
  const runtime = await openRuntime({ binding: "c-api", ...options });
  registered = runtime;
  api.registerBackend(runtime.provider, backend, PRIORITY);
  // The last one registered is the first one tried.
  api.registerBackend(ORT_BACKEND, backend, PRIORITY);
  return runtime;
}

/** onnxruntime-node's own instance of onnxruntime-common: an ES import would give another one. */
function common(): typeof ort {
  return createRequire(createRequire(import.meta.url).resolve("onnxruntime-node"))("onnxruntime-common");
}

/** onnxruntime-common keeps the first backend of a name, so there is one, which serves the runtime registered last. */
let registered: Runtime | undefined;

const backend: ort.Backend = {
  init: () => Promise.resolve(),
  async createInferenceSessionHandler(model, options = {}) {
    const runtime = registered!;
    return handlerOf(runtime, await runtime.load(model, translate(runtime, options)));
  },
};

/** dbf's session options from onnxruntime-common's. */
function translate({ provider }: Runtime, options: ort.InferenceSession.SessionOptions): SessionOptions {
  const asked = options.executionProviders?.map((each) => typeof each === "string" ? each : each.name);
  if (asked !== undefined && asked.length > 0 && !asked.includes(provider) && !asked.includes(ORT_BACKEND)) {
    throw new TypeError(`Cannot make a session for ${asked.join(", ")} on dbf's ${provider} backend`);
  }
  if (options.externalData !== undefined && options.externalData.length > 0) {
    throw new TypeError(
      "Cannot load external data from memory: pass the path of the .onnx file, beside which its data files lie",
    );
  }
  return {
    name: options.logId,
    threads: options.intraOpNumThreads || undefined,
    optimization: options.graphOptimizationLevel === "layout" ? "all" : options.graphOptimizationLevel,
    profilePrefix: options.enableProfiling ? options.profileFilePrefix ?? "onnxruntime_profile_" : undefined,
  };
}

function handlerOf(runtime: Runtime, session: Session): Handler {
  return {
    inputNames: session.inputs.map((value) => value.name),
    outputNames: session.outputs.map((value) => value.name),
    inputMetadata: session.inputs.map(metadata),
    outputMetadata: session.outputs.map(metadata),
    startProfiling() {},
    endProfiling() {},
    dispose: () => session[Symbol.asyncDispose](),
    async run(feeds, fetches) {
      const fed: Record<string, Tensor> = {};
      let outputs: Record<string, Tensor> = {};
      try {
        for (const [name, value] of Object.entries(feeds)) {
          const tensor = value as ort.Tensor;
          fed[name] = runtime.tensor(tensor.type as DType, elementsOf(tensor), tensor.dims);
        }
        outputs = await session.run(fed, { outputs: Object.keys(fetches) });
        const results: Record<string, ort.Tensor> = {};
        for (const [name, tensor] of Object.entries(outputs)) {
          results[name] = toOrt(tensor, await tensor.read(), fetches[name] as ort.Tensor | null);
        }
        return results;
      } finally {
        for (const tensor of [...Object.values(fed), ...Object.values(outputs)]) tensor[Symbol.dispose]();
      }
    },
  };
}

function metadata({ name, dtype, shape }: ValueInfo): ort.InferenceSession.ValueMetadata {
  return { name, isTensor: true, type: dtype as ort.Tensor.Type, shape: shape.map((dim) => dim === -1 ? "" : dim) };
}

/** Elements as dbf passes them: float16 as raw bits, which onnxruntime-common holds in a `Float16Array` where there is one. */
function elementsOf({ type, data }: ort.Tensor): TensorData {
  if (type !== "float16" || data instanceof Uint16Array) return data as TensorData;
  const { buffer, byteOffset, length } = data as unknown as Uint16Array;
  return new Uint16Array(buffer, byteOffset, length);
}

function toOrt(tensor: Tensor, data: TensorData, target: ort.Tensor | null): ort.Tensor {
  const elements = tensor.dtype === "float16" && "Float16Array" in globalThis
    ? new Float16Array((data as Uint16Array<ArrayBuffer>).buffer)
    : data;
  if (target === null) {
    const { Tensor: OrtTensor } = common();
    return new OrtTensor(tensor.dtype as ort.Tensor.Type, elements as unknown as ort.Tensor.DataType, tensor.shape);
  }
  if (target.type !== tensor.dtype || String(target.dims) !== String(tensor.shape)) {
    throw new TypeError(
      `Cannot write ${tensor.dtype} of shape [${tensor.shape.join(", ")}] to an output tensor of ${target.type} [${
        target.dims.join(", ")
      }]`,
    );
  }
  if (Array.isArray(elements)) (target.data as string[]).splice(0, elements.length, ...elements);
  else (target.data as Float32Array).set(elements as unknown as Float32Array);
  return target;
}
