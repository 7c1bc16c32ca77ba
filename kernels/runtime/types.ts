/**
 * The session interface: everything numerical in dbf runs through it, whatever executes underneath (ONNX Runtime's C API
 * over FFI, or plain onnxruntime-node) and wherever (CPU, CUDA, WebGPU).
 *
 * @module
 */

/** Element types that tensors can have; the names are those of onnxruntime-common, plus `bfloat16`. */
export type DType =
  | "float32"
  | "float64"
  | "float16"
  | "bfloat16"
  | "int8"
  | "uint8"
  | "int16"
  | "uint16"
  | "int32"
  | "uint32"
  | "int64"
  | "uint64"
  | "bool"
  | "string";

/** Where graphs run: the execution providers of ONNX Runtime that dbf supports. */
export type Provider = "cpu" | "cuda" | "webgpu";

/**
 * Elements of a tensor in JavaScript. `float16` and `bfloat16` are raw bits in a `Uint16Array`, `bool` is one byte an
 * element (0 or 1) in a `Uint8Array`.
 */
export type TensorData =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array
  | string[];

/** An opaque tensor. It may live on a device; only {@linkcode Tensor.read} brings its elements to JavaScript. */
export interface Tensor extends Disposable {
  readonly dtype: DType;
  /** Dimensions, outermost first; `[]` is a scalar. */
  readonly shape: readonly number[];
  /** Size of the elements in bytes (0 for strings). */
  readonly byteLength: number;
  /** The device whose memory holds the elements. */
  readonly device: Provider;
  /**
   * Copies the elements out, row-major.
   *
   * @throws {Error} when the tensor was disposed.
   */
  read(): Promise<TensorData>;
  /** Releases the memory as soon as no run uses it any more. Disposing twice is harmless. */
  [Symbol.dispose](): void;
}

/**
 * Name, type and shape of a graph input or output; a string is a symbolic dimension, -1 an unnamed dynamic one, and the
 * single dimension `"..."` an unknown rank.
 */
export interface ValueInfo {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly (number | string)[];
}

/** What {@linkcode Session.run} accepts beside its feeds. */
export interface RunOptions {
  /** Outputs to compute; all by default. */
  readonly outputs?: readonly string[];
  /**
   * Existing tensors of the right type and shape that receive outputs; they must not be fed in the same run unless
   * {@linkcode RunOptions.inPlace} says so. When the run fails, their contents are unspecified.
   */
  readonly into?: Readonly<Record<string, Tensor>>;
  /**
   * Allows tensors of `into` to be fed in the same run: right where an operator is made to write an output over its input, such as the
   * caches of GroupQueryAttention, and nothing else reads that input. Default false.
   */
  readonly inPlace?: boolean;
  /** Ends the run before its next operator (C API binding): the promise rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** How a session is made. */
export interface SessionOptions {
  /** Shown in errors and profiles, e.g. `"admm step 4096x4096 k=2048"`. */
  readonly name?: string;
  /** Threads inside an operator; by default the runtime's. */
  readonly threads?: number;
  /** CUDA only: allow TF32 in float32 products. Default true. */
  readonly tf32?: boolean;
  /** Graph rewriting by ONNX Runtime. `"disabled"` keeps function bodies from being folded into dense weights. Default `"all"`. */
  readonly optimization?: "disabled" | "basic" | "extended" | "all";
  /** Register dbf's native operator library where it is built. Default true. */
  readonly nativeKernels?: boolean;
  /** Arithmetic of dbf's native CPU kernels: `"exact"` float32 sums, or `"fast"` with activations in 8 bits. Default `"exact"`. */
  readonly accuracy?: "exact" | "fast";
  /**
   * CUDA with the C API binding only, elsewhere without effect: record the kernels of a run once for every set of tensors and
   * replay them, which takes the host's launches away. Every node must run on the GPU, every output needs a tensor in
   * {@linkcode RunOptions.into}, and a run holds the event loop until the device is done and cannot be ended by a signal.
   */
  readonly cudaGraph?: boolean;
  /**
   * Plan all buffers of a run as one piece from its second run with equal shapes on. The first run's pieces stay in the arena, so
   * without it large graphs need less memory (a quarter less in the factorization of 2048² at k = 1024). Default true.
   */
  readonly memoryPattern?: boolean;
  /** Write ONNX Runtime's profile to files that start with this path. */
  readonly profilePrefix?: string;
  /** Fail unless every node of these operator types was placed on the session's own provider. */
  readonly requirePlacement?: readonly string[];
  /** Keep the list of nodes and providers in {@linkcode Session.placement} (C API binding). Default false. */
  readonly recordPlacement?: boolean;
}

/** Where a node of a loaded graph runs. */
export interface NodePlacement {
  readonly name: string;
  /** Operator domain, `""` for ONNX's own. */
  readonly domain: string;
  /** Operator type, e.g. `"MatMul"`. */
  readonly operator: string;
  /** One of {@linkcode Provider}, or ONNX Runtime's own name of another provider. */
  readonly provider: string;
}

/** A graph ready to run. */
export interface Session extends AsyncDisposable {
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  readonly provider: Provider;
  /** Nodes by provider, where {@linkcode SessionOptions.recordPlacement} asked for them. */
  readonly placement?: readonly NodePlacement[];
  /**
   * Runs the graph without blocking the event loop (C API binding) and returns its outputs, owned by the caller. A session
   * whose runs took less than 0.25 ms (30 ms on CUDA) is called directly, giving the loop a turn after every 4 ms.
   *
   * @throws {TypeError} when a feed is missing, unknown, or of the wrong type or rank.
   * @throws {Error} with ONNX Runtime's own text when the run fails.
   */
  run(feeds: Readonly<Record<string, Tensor>>, options?: RunOptions): Promise<Record<string, Tensor>>;
  /** Releases the session after the runs in flight have ended. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** How a runtime is opened. */
export interface RuntimeOptions {
  /** Default `"cpu"`. There is no fallback: an absent provider is an error that says what is missing. */
  readonly provider?: Provider;
  /** Default threads of its sessions; by default one a core on the CPU, and 1 on a GPU. */
  readonly threads?: number;
  /** `"c-api"` needs FFI permission; `"auto"` (default) takes it where permitted and onnxruntime-node otherwise, and says so in {@linkcode Runtime.binding}. */
  readonly binding?: "auto" | "c-api" | "onnxruntime-node";
  /** Index of the GPU. Default 0. */
  readonly device?: number;
  /** Upper bound of the device arena in bytes; by default unbounded. */
  readonly arenaBytes?: number;
  /** Bytes of a GPU's memory that runs may plan to fill; see {@linkcode Runtime.deviceMemory}. Default 16 GiB for CUDA, 4 GiB for WebGPU. */
  readonly deviceMemory?: number;
}

/** A provider of ONNX Runtime, opened: makes tensors and sessions. */
export interface Runtime extends AsyncDisposable {
  readonly provider: Provider;
  readonly binding: "c-api" | "onnxruntime-node";
  /** ONNX Runtime's version, e.g. `"1.30.0"`. */
  readonly version: string;
  /** Path of dbf's operator library where it was found, with the instruction set it dispatches to and its operators; `undefined` when portable bodies run instead. */
  readonly nativeKernels:
    | { readonly path: string; readonly isa: string; readonly operators: readonly string[] }
    | undefined;
  /**
   * Bytes of the GPU's memory that those who keep much there (activations, training state, caches) take their shares of. Nothing
   * enforces it, and sessions and weights need some beside it. Absent on the CPU.
   */
  readonly deviceMemory?: number;
  /**
   * Copies elements (row-major) into a new tensor on the provider's device.
   *
   * @throws {RangeError} when `data.length` is not the product of `shape`.
   */
  tensor(dtype: DType, data: TensorData, shape: readonly number[]): Tensor;
  /** Allocates a tensor on the provider's device with unspecified contents, for {@linkcode RunOptions.into}. */
  empty(dtype: DType, shape: readonly number[]): Tensor;
  /**
   * Loads a graph, from protobuf bytes (no external data) or from the path of an `.onnx` file.
   *
   * @throws {Error} with ONNX Runtime's own text when the model is refused.
   */
  load(model: Uint8Array | string, options?: SessionOptions): Promise<Session>;
}
