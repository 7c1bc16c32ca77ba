/**
 * The functions of ONNX Runtime's C API that dbf calls: their place in the `OrtApi` table and their signatures.
 *
 * The table is public ABI and append-only: a function keeps its place in every later version of the library
 * (https://onnxruntime.ai/docs/api/c/struct_ort_api.html). Handles, sizes and addresses are 64-bit integers; `buffer` is
 * memory of JavaScript that only has to live during the call; addresses are used where the call outlives its statement.
 *
 * @module
 */

/** Version of the C API that the places below are for; it came with ONNX Runtime 1.24. */
export const API_VERSION = 24;

interface Declaration<P extends readonly Deno.NativeType[], R extends Deno.NativeResultType, N extends boolean> {
  readonly place: number;
  readonly parameters: P;
  readonly result: R;
  readonly nonblocking: N;
}

/** A function that ends with a status: 0 is success, anything else an `OrtStatus` to be released. */
function status<const P extends readonly Deno.NativeType[]>(
  place: number,
  ...parameters: P
): Declaration<P, "u64", false> {
  return { place, parameters, result: "u64", nonblocking: false };
}

/** As {@linkcode status}, run on a thread of its own while the event loop goes on. */
function slow<const P extends readonly Deno.NativeType[]>(
  place: number,
  ...parameters: P
): Declaration<P, "u64", true> {
  return { place, parameters, result: "u64", nonblocking: true };
}

/** A `Release…` function; it accepts 0. */
function release(place: number): Declaration<["u64"], "void", false> {
  return { place, parameters: ["u64"], result: "void", nonblocking: false };
}

/** Every function used, by its name in the C API. `…Slow` are the same functions called off the event loop. */
export const FUNCTIONS = {
  CreateStatus: { place: 0, parameters: ["i32", "buffer"], result: "u64", nonblocking: false },
  GetErrorCode: { place: 1, parameters: ["u64"], result: "i32", nonblocking: false },
  GetErrorMessage: { place: 2, parameters: ["u64"], result: "pointer", nonblocking: false },
  ReleaseStatus: release(93),
  GetBuildInfoString: { place: 254, parameters: [], result: "pointer", nonblocking: false },

  /** level, log id, out env */
  CreateEnv: status(3, "i32", "buffer", "buffer"),
  /** env, memory info, arena configuration */
  CreateAndRegisterAllocator: status(144, "u64", "u64", "u64"),
  /** env, memory info */
  UnregisterAllocator: status(177, "u64", "u64"),
  /** keys, values, count, out */
  CreateArenaCfgV2: status(164, "buffer", "buffer", "usize", "buffer"),
  ReleaseArenaCfg: release(157),
  /** out names, out count */
  GetAvailableProviders: status(125, "buffer", "buffer"),
  /** names, count */
  ReleaseAvailableProviders: status(126, "u64", "i32"),

  /** out options */
  CreateSessionOptions: status(10, "buffer"),
  ReleaseSessionOptions: release(100),
  /** options, file prefix */
  EnableProfiling: status(14, "u64", "buffer"),
  DisableMemPattern: status(17, "u64"),
  /** options, name */
  SetSessionLogId: status(20, "u64", "buffer"),
  /** options, severity: 4 is fatal */
  SetSessionLogSeverityLevel: status(22, "u64", "i32"),
  /** options, 0 disabled, 1 basic, 2 extended, 99 all */
  SetSessionGraphOptimizationLevel: status(23, "u64", "i32"),
  SetIntraOpNumThreads: status(24, "u64", "i32"),
  /** options, key, value */
  AddSessionConfigEntry: status(130, "u64", "buffer", "buffer"),
  /** options, path */
  RegisterCustomOpsLibrary_V2: status(228, "u64", "buffer"),
  /** options, name, keys, values, count */
  SessionOptionsAppendExecutionProvider: status(216, "u64", "buffer", "buffer", "buffer", "usize"),
  /** out options */
  CreateCUDAProviderOptions: status(205, "buffer"),
  /** options, keys, values, count */
  UpdateCUDAProviderOptions: status(206, "u64", "buffer", "buffer", "usize"),
  ReleaseCUDAProviderOptions: release(208),
  /** session options, CUDA options */
  SessionOptionsAppendExecutionProvider_CUDA_V2: status(204, "u64", "u64"),

  /** env, path, options, out session */
  CreateSessionSlow: slow(7, "u64", "u64", "u64", "u64"),
  /** env, bytes, length, options, out session */
  CreateSessionFromArraySlow: slow(8, "u64", "u64", "usize", "u64", "u64"),
  /** The same, blocking: for a graph of a few bytes. */
  CreateSessionFromArray: status(8, "u64", "u64", "usize", "u64", "u64"),
  ReleaseSession: release(95),
  ReleaseSessionSlow: { place: 95, parameters: ["u64"], result: "void", nonblocking: true },
  SessionGetInputCount: status(30, "u64", "buffer"),
  SessionGetOutputCount: status(31, "u64", "buffer"),
  /** session, index, out type info */
  SessionGetInputTypeInfo: status(33, "u64", "usize", "buffer"),
  SessionGetOutputTypeInfo: status(34, "u64", "usize", "buffer"),
  /** session, index, allocator, out name (freed by the allocator) */
  SessionGetInputName: status(36, "u64", "usize", "u64", "buffer"),
  SessionGetOutputName: status(37, "u64", "usize", "u64", "buffer"),
  /** session, allocator, out file name */
  SessionEndProfiling: status(110, "u64", "u64", "buffer"),

  /** type info, out tensor info (0 when it is no tensor; owned by the type info) */
  CastTypeInfoToTensorInfo: status(55, "u64", "buffer"),
  ReleaseTypeInfo: release(98),
  GetTensorElementType: status(60, "u64", "buffer"),
  GetDimensionsCount: status(61, "u64", "buffer"),
  /** info, out dimensions, count */
  GetDimensions: status(62, "u64", "buffer", "usize"),
  /** info, out C strings, count */
  GetSymbolicDimensions: status(63, "u64", "buffer", "usize"),
  TensorTypeAndShape_HasShape: { place: 390, parameters: ["u64"], result: "bool", nonblocking: false },

  /** session, run options, input names, inputs, count, output names, count, outputs */
  Run: status(9, "u64", "u64", "u64", "u64", "u64", "u64", "u64", "u64"),
  RunSlow: slow(9, "u64", "u64", "u64", "u64", "u64", "u64", "u64", "u64"),
  CreateRunOptions: status(39, "buffer"),
  RunOptionsSetTerminate: status(46, "u64"),
  /** run options, key, value */
  AddRunConfigEntry: status(165, "u64", "buffer", "buffer"),
  ReleaseRunOptions: release(97),

  /** session, out binding */
  CreateIoBinding: status(134, "u64", "buffer"),
  ReleaseIoBinding: release(135),
  /** binding, name, value */
  BindInput: status(136, "u64", "u64", "u64"),
  BindOutput: status(137, "u64", "u64", "u64"),
  /** binding, name, memory info */
  BindOutputToDevice: status(138, "u64", "u64", "u64"),
  /** session, run options, binding */
  RunWithBinding: status(133, "u64", "u64", "u64"),
  RunWithBindingSlow: slow(133, "u64", "u64", "u64"),
  /** binding, allocator, out values (array freed by the allocator), out count */
  GetBoundOutputValues: status(140, "u64", "u64", "buffer", "buffer"),

  /** allocator, dimensions, rank, element type, out value */
  CreateTensorAsOrtValue: status(48, "u64", "buffer", "usize", "i32", "buffer"),
  /** value, out address */
  GetTensorMutableData: status(51, "u64", "buffer"),
  /** value, out element type, out address of dimensions (owned by the value), out rank */
  GetTensorElementTypeAndShapeDataReference: status(414, "u64", "buffer", "buffer", "buffer"),
  /** value, C strings, count */
  FillStringTensor: status(52, "u64", "buffer", "usize"),
  GetStringTensorDataLength: status(53, "u64", "buffer"),
  /** value, out bytes, length, out offsets, count */
  GetStringTensorContent: status(54, "u64", "buffer", "usize", "buffer", "usize"),
  /** value, out memory info (owned by the value) */
  GetTensorMemoryInfo: status(194, "u64", "buffer"),
  ReleaseValue: release(96),

  /** name, allocator type, device index, memory type, out */
  CreateMemoryInfo: status(68, "buffer", "i32", "i32", "i32", "buffer"),
  /** allocator type, memory type, out */
  CreateCpuMemoryInfo: status(69, "i32", "i32", "buffer"),
  /** info, out device type: 0 CPU, 1 GPU */
  MemoryInfoGetDeviceType: { place: 225, parameters: ["u64", "buffer"], result: "void", nonblocking: false },
  ReleaseMemoryInfo: release(94),
  /** out allocator of the process, never released */
  GetAllocatorWithDefaultOptions: status(78, "buffer"),
  /** session, memory info, out allocator */
  CreateAllocator: status(131, "u64", "u64", "buffer"),
  ReleaseAllocator: release(132),
  /** allocator, address */
  AllocatorFree: status(76, "u64", "u64"),

  /** session, out subgraphs, out count (owned by the session) */
  Session_GetEpGraphAssignmentInfo: status(407, "u64", "buffer", "buffer"),
  EpAssignedSubgraph_GetEpName: status(408, "u64", "buffer"),
  /** subgraph, out nodes, out count */
  EpAssignedSubgraph_GetNodes: status(409, "u64", "buffer", "buffer"),
  EpAssignedNode_GetName: status(410, "u64", "buffer"),
  EpAssignedNode_GetDomain: status(411, "u64", "buffer"),
  EpAssignedNode_GetOperatorType: status(412, "u64", "buffer"),
} as const satisfies Record<string, Declaration<readonly Deno.NativeType[], Deno.NativeResultType, boolean>>;

type Functions = typeof FUNCTIONS;

/** JavaScript values of the parameter types used; sizes are numbers, which Deno accepts beside bigints. */
interface Arguments {
  readonly u64: bigint;
  readonly u32: number;
  readonly i32: number;
  readonly usize: number;
  readonly buffer: ArrayBufferView<ArrayBuffer>;
}

interface Results {
  readonly u64: bigint;
  readonly i32: number;
  readonly bool: boolean;
  readonly pointer: Deno.PointerValue;
  readonly void: void;
}

type Values<P extends readonly unknown[]> = { -readonly [I in keyof P]: Arguments[P[I] & keyof Arguments] };

/** A declared function, as JavaScript calls it. */
export type Callable<F> = F extends
  { parameters: infer P extends readonly unknown[]; result: infer R extends keyof Results; nonblocking: infer N }
  ? (...parameters: Values<P>) => N extends true ? Promise<Results[R]> : Results[R]
  : never;

/** The functions, callable. */
export type OrtFunctions = { readonly [Name in keyof Functions]: Callable<Functions[Name]> };

/** Element types by ONNX's numbers (`TensorProto.DataType`); absent ones cannot pass the session interface. */
export const ELEMENT_TYPES = {
  float32: 1,
  uint8: 2,
  int8: 3,
  uint16: 4,
  int16: 5,
  int32: 6,
  int64: 7,
  string: 8,
  bool: 9,
  float16: 10,
  float64: 11,
  uint32: 12,
  uint64: 13,
  bfloat16: 16,
} as const;
