/**
 * The session interface over plain onnxruntime-node: every feed and fetch is copied through JavaScript, a run holds the
 * event loop, and there are no custom operators. Used where the C API cannot be loaded.
 *
 * @module
 */
import type * as ort from "onnxruntime-node";
import type {
  DType,
  Runtime,
  RuntimeOptions,
  Session,
  SessionOptions,
  Tensor,
  TensorData,
  ValueInfo,
} from "../types.ts";
import { checkData, elementBytes, elementCount, newData } from "../dtype.ts";
import { deviceMemoryOf } from "../device_memory.ts";
import { checkFeeds, chooseOutputs } from "../feeds.ts";
import { sessionThreads } from "../session_threads.ts";

type Ort = typeof ort;

class NodeTensor implements Tensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly byteLength: number;
  readonly device = "cpu";
  #data: TensorData | undefined;

  constructor(dtype: DType, data: TensorData, shape: readonly number[]) {
    this.dtype = dtype;
    this.shape = [...shape];
    this.byteLength = elementCount(shape) * elementBytes(dtype);
    this.#data = data;
  }

  get data(): TensorData {
    if (this.#data === undefined) {
      throw new Error(`Cannot use a ${this.dtype} tensor of shape [${this.shape}]: it was disposed`);
    }
    return this.#data;
  }

  // deno-lint-ignore require-await -- a disposed tensor rejects the promise instead of throwing at once
  async read(): Promise<TensorData> {
    return this.data.slice();
  }

  [Symbol.dispose](): void {
    this.#data = undefined;
  }
}

const UNSUPPORTED: readonly DType[] = ["float16", "bfloat16"];

function valueInfo(metadata: ort.InferenceSession.ValueMetadata): ValueInfo {
  if (!metadata.isTensor) return { name: metadata.name, dtype: "float32", shape: [] };
  return {
    name: metadata.name,
    dtype: metadata.type as DType,
    shape: metadata.shape.map((dimension) => dimension === "" ? -1 : dimension),
  };
}

function toOrt(api: Ort, name: string, tensor: Tensor): ort.Tensor {
  if (UNSUPPORTED.includes(tensor.dtype)) {
    throw new TypeError(
      `Cannot feed ${tensor.dtype} "${name}" through onnxruntime-node: open the runtime with binding "c-api", or cast inside the graph`,
    );
  }
  if (!(tensor instanceof NodeTensor)) {
    throw new TypeError(
      `Cannot feed "${name}": the tensor belongs to another runtime; make it with this runtime's tensor()`,
    );
  }
  return new api.Tensor(tensor.dtype as ort.Tensor.Type, tensor.data as ort.Tensor.DataType, tensor.shape);
}

class NodeSession implements Session {
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  readonly provider;
  #api: Ort;
  #session: ort.InferenceSession | undefined;
  #name: string;
  #profiles: boolean;

  constructor(api: Ort, session: ort.InferenceSession, name: string, provider: Runtime["provider"], profiles: boolean) {
    this.#api = api;
    this.#session = session;
    this.#name = name;
    this.#profiles = profiles;
    this.provider = provider;
    this.inputs = session.inputMetadata.map(valueInfo);
    this.outputs = session.outputMetadata.map(valueInfo);
  }

  async run(feeds: Readonly<Record<string, Tensor>>, options: Parameters<Session["run"]>[1] = {}) {
    if (this.#session === undefined) throw new Error(`Cannot run ${this.#name}: the session was disposed`);
    options.signal?.throwIfAborted();
    checkFeeds(this.#name, this.inputs, feeds);
    const chosen = chooseOutputs(this.#name, this.outputs, options);
    const ortFeeds: Record<string, ort.Tensor> = {};
    for (const [name, tensor] of Object.entries(feeds)) ortFeeds[name] = toOrt(this.#api, name, tensor);
    const results = await this.#session.run(ortFeeds, chosen.map((output) => output.name));
    options.signal?.throwIfAborted();
    const outputs: Record<string, Tensor> = {};
    for (const { name } of chosen) {
      const result = results[name];
      const target = options.into?.[name];
      if (target === undefined) {
        const data = (result.type as string) === "bool" ? Uint8Array.from(result.data as Uint8Array) : result.data;
        outputs[name] = new NodeTensor(result.type as DType, data as TensorData, result.dims);
        continue;
      }
      outputs[name] = target;
      const destination = (target as NodeTensor).data;
      if (destination.length !== result.data.length) {
        throw new Error(
          `Cannot run ${this.#name} into "${name}" of shape [${target.shape}]: the result has shape [${result.dims}]`,
        );
      }
      if (Array.isArray(destination)) destination.splice(0, destination.length, ...result.data as string[]);
      else (destination as Float32Array).set(result.data as Float32Array);
    }
    return outputs;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    if (this.#profiles) session?.endProfiling();
    await session?.release();
  }
}

/**
 * Opens onnxruntime-node as a runtime.
 *
 * @throws {Error} when onnxruntime-node or the provider cannot be loaded.
 */
export async function openNodeBinding(options: RuntimeOptions = {}): Promise<Runtime> {
  const api = await import("onnxruntime-node");
  const provider = options.provider ?? "cpu";
  const available = api.listSupportedBackends().map((backend) => backend.name);
  if (!available.includes(provider)) {
    throw new Error(
      `Cannot open provider "${provider}": onnxruntime-node was built with ${available.join(", ")} on this system`,
    );
  }
  return {
    provider,
    binding: "onnxruntime-node",
    version: api.env.versions.node ?? api.env.versions.common,
    nativeKernels: undefined,
    deviceMemory: deviceMemoryOf(provider, options.deviceMemory),
    tensor(dtype, data, shape) {
      checkData(dtype, data, shape);
      return new NodeTensor(dtype, data.slice(), shape);
    },
    empty: (dtype, shape) => new NodeTensor(dtype, newData(dtype, elementCount(shape)), shape),
    async load(model, sessionOptions: SessionOptions = {}) {
      const name = sessionOptions.name ?? (typeof model === "string" ? model : "a graph");
      if (sessionOptions.requirePlacement?.length && provider !== "cpu") {
        throw new Error(`Cannot check node placement of ${name} through onnxruntime-node: use binding "c-api"`);
      }
      const threads = sessionThreads(provider, options.threads, sessionOptions.threads);
      const executionProvider = provider === "cuda"
        ? { name: "cuda", deviceId: options.device ?? 0, useTf32: sessionOptions.tf32 === false ? 0 : 1 }
        : provider;
      const settings: ort.InferenceSession.SessionOptions = {
        executionProviders: [executionProvider as ort.InferenceSession.ExecutionProviderConfig],
        graphOptimizationLevel: sessionOptions.optimization ?? "all",
        logSeverityLevel: 3,
        enableMemPattern: sessionOptions.memoryPattern ?? true,
        ...(threads === undefined ? {} : { intraOpNumThreads: threads }),
        ...(sessionOptions.profilePrefix === undefined
          ? {}
          : { enableProfiling: true, profileFilePrefix: sessionOptions.profilePrefix }),
      };
      try {
        const session = typeof model === "string"
          ? await api.InferenceSession.create(model, settings)
          : await api.InferenceSession.create(model, settings);
        return new NodeSession(api, session, name, provider, sessionOptions.profilePrefix !== undefined);
      } catch (cause) {
        throw new Error(`Cannot load ${name}: ${cause instanceof Error ? cause.message : cause}`, { cause });
      }
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
