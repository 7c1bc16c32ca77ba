/**
 * Tensors that ONNX Runtime owns, in CPU or device memory.
 *
 * @module
 */
import { checkData, elementBytes, elementCount, viewData } from "../dtype.ts";
import type { DType, Provider, Tensor, TensorData } from "../types.ts";
import type { DeviceMemory } from "./device_memory.ts";
import type { Environment } from "./environment.ts";
import { cStrings, readBytes, wordsAt, writeBytes } from "./memory.ts";
import { check } from "./status.ts";
import { ELEMENT_TYPES } from "./table.ts";
import { watchForLeak } from "./leaks.ts";

/** Results of synchronous calls; read before the next call. */
const out = new BigUint64Array(new ArrayBuffer(8));
const rankOut = new BigUint64Array(new ArrayBuffer(8));
const elementType = new BigUint64Array(new ArrayBuffer(8));
const dimensions = new BigUint64Array(new ArrayBuffer(64));
const rankViews = Array.from({ length: 9 }, (_, rank) => dimensions.subarray(0, rank));
const decoder = new TextDecoder();

/** A tensor of the C API. It is used by runs and reads, and released when it is disposed and none uses it. */
export class OrtTensor implements Tensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly byteLength: number;
  readonly device: Provider;
  /** The `OrtValue`; only valid between {@linkcode acquire} and {@linkcode release}. */
  readonly value: bigint;
  readonly #environment: Environment;
  readonly #memory: DeviceMemory | undefined;
  #users = 0;
  #disposed = false;

  /** Takes over a value. `memory` is the device memory that it lies in; CPU memory when absent. */
  constructor(environment: Environment, value: bigint, dtype: DType, shape: readonly number[], memory?: DeviceMemory) {
    this.#environment = environment;
    this.#memory = memory;
    this.value = value;
    this.dtype = dtype;
    this.shape = shape;
    this.device = memory?.provider ?? "cpu";
    this.byteLength = elementCount(shape) * elementBytes(dtype);
    memory?.retain();
    watchForLeak(this, this.byteLength);
  }

  /** Where the elements lie; between {@linkcode acquire} and {@linkcode release}. */
  get address(): bigint {
    return dataAddress(this.#environment, this.value);
  }

  /** Whether the memory was given up; a run that still uses it may hold it alive. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * Keeps the memory alive until {@linkcode release}.
   *
   * @throws {Error} when the tensor was disposed.
   */
  acquire(): void {
    if (this.#disposed) {
      throw new Error(`Cannot use a ${this.dtype} tensor of shape [${this.shape.join(", ")}]: it was disposed`);
    }
    this.#users++;
  }

  /** Ends a use. */
  release(): void {
    if (--this.#users === 0 && this.#disposed) this.#free();
  }

  async read(): Promise<TensorData> {
    this.acquire();
    try {
      if (this.dtype === "string") return this.#readStrings();
      if (this.byteLength === 0) return viewData(this.dtype, new ArrayBuffer(0));
      const address = this.address;
      const bytes = this.#memory === undefined
        ? readBytes(address, this.byteLength)
        : await this.#memory.read(address, this.byteLength);
      return viewData(this.dtype, bytes);
    } finally {
      this.release();
    }
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    watchForLeak(this, 0);
    if (this.#users === 0) this.#free();
  }

  #free(): void {
    this.#environment.api.ReleaseValue(this.value);
    this.#memory?.release();
  }

  #readStrings(): string[] {
    const { api } = this.#environment;
    const count = elementCount(this.shape);
    if (count === 0) return [];
    check(api, api.GetStringTensorDataLength(this.value, out), "measure strings");
    const bytes = new Uint8Array(Number(out[0]));
    const offsets = new BigUint64Array(count + 1);
    offsets[count] = BigInt(bytes.length);
    check(api, api.GetStringTensorContent(this.value, bytes, bytes.length, offsets, count), "read strings");
    return Array.from(
      { length: count },
      (_, index) => decoder.decode(bytes.subarray(Number(offsets[index]), Number(offsets[index + 1]))),
    );
  }
}

/** Allocates a tensor in device memory, or in CPU memory without it. Strings always lie in CPU memory. */
export function allocateTensor(
  environment: Environment,
  dtype: DType,
  shape: readonly number[],
  memory: DeviceMemory | undefined,
): OrtTensor {
  const { api, cpuAllocator } = environment;
  const place = dtype === "string" ? undefined : memory;
  const sizes = BigInt64Array.from(shape, (dimension) => BigInt(dimension));
  const type = ELEMENT_TYPES[dtype];
  if (type === undefined) {
    throw new TypeError(
      `Cannot make a tensor of type "${dtype}": known types are ${Object.keys(ELEMENT_TYPES).join(", ")}`,
    );
  }
  elementCount(shape);
  check(
    api,
    api.CreateTensorAsOrtValue(place?.allocator ?? cpuAllocator, sizes, shape.length, type, out),
    () => `allocate a ${dtype} tensor of shape [${shape.join(", ")}] on ${place?.provider ?? "cpu"}`,
  );
  return new OrtTensor(environment, out[0], dtype, [...shape], place);
}

/** Copies elements to a new tensor; see `Runtime.tensor`. */
export function copyToTensor(
  environment: Environment,
  dtype: DType,
  data: TensorData,
  shape: readonly number[],
  memory: DeviceMemory | undefined,
): OrtTensor {
  checkData(dtype, data, shape);
  const tensor = allocateTensor(environment, dtype, shape, memory);
  if (data.length === 0) return tensor;
  try {
    if (Array.isArray(data)) {
      const strings = cStrings(data);
      const { api } = environment;
      check(api, api.FillStringTensor(tensor.value, strings.words, data.length), "fill a string tensor");
    } else {
      const address = dataAddress(environment, tensor.value);
      if (tensor.device === "cpu") writeBytes(address, data);
      else memory!.write(address, data);
    }
  } catch (error) {
    tensor[Symbol.dispose]();
    throw error;
  }
  return tensor;
}

/** Shape of a value that a run made. */
export function shapeOf({ api }: Environment, value: bigint): number[] {
  const status = api.GetTensorElementTypeAndShapeDataReference(value, elementType, out, rankOut);
  check(api, status, "read the shape of an output");
  const rank = Number(rankOut[0]);
  if (rank === 0) return [];
  if (rank > dimensions.length) return Array.from(wordsAt(out[0], rank), Number);
  Deno.UnsafePointerView.copyInto(Deno.UnsafePointer.create(out[0])!, rankViews[rank]);
  const shape = new Array<number>(rank);
  for (let axis = 0; axis < rank; axis++) shape[axis] = Number(dimensions[axis]);
  return shape;
}

function dataAddress({ api }: Environment, value: bigint): bigint {
  check(api, api.GetTensorMutableData(value, out), "find the elements of a tensor");
  return out[0];
}
