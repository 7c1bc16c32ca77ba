/**
 * Memory of a CUDA device: allocated by ONNX Runtime's arena, copied by the CUDA runtime that its provider brings.
 *
 * @module
 */
import { join } from "node:path";
import { onnxRuntimeDirectory } from "./library.ts";
import type { Environment } from "./environment.ts";
import { addressOf, cString, newWords, whileKept } from "./memory.ts";
import { check } from "./status.ts";

const DEVICE_ALLOCATOR = 0;
const MEMORY_TYPE_DEFAULT = 0;

/** `cudaMemcpyDefault`: the direction follows from the addresses. */
const COPY_BY_ADDRESS = 4;

const CUDA_SYMBOLS = {
  cudaMemcpy: { parameters: ["u64", "buffer", "u64", "i32"], result: "i32" },
  cudaMemcpySlow: { name: "cudaMemcpy", parameters: ["u64", "u64", "u64", "i32"], result: "i32", nonblocking: true },
  cudaStreamSynchronize: { parameters: ["u64"], result: "i32" },
  cudaGetErrorString: { parameters: ["i32"], result: "pointer" },
} as const;

/** File name of the CUDA provider's library on Linux. */
export const CUDA_PROVIDER_FILE = "libonnxruntime_providers_cuda.so";

/** The memory of one device. It lives until its runtime was closed and the last tensor in it was disposed. */
export interface DeviceMemory {
  readonly provider: "cuda";
  /** Describes the memory to ONNX Runtime. */
  readonly info: bigint;
  readonly allocator: bigint;
  /** Copies bytes of JavaScript to a device address. */
  write(address: bigint, source: ArrayBufferView): void;
  /** Copies bytes at a device address, without holding the event loop. */
  read(address: bigint, byteLength: number): Promise<ArrayBuffer>;
  /** One user more. */
  retain(): void;
  /** One user less; the last one frees the memory. */
  release(): void;
}

/**
 * Opens the memory of a CUDA device, with one user.
 *
 * @param session A session on that device, whose arena serves the tensors.
 * @param closed Called when the last user is gone, to release that session.
 * @throws {Error} when the CUDA runtime cannot be reached.
 */
export function openCudaMemory(
  { api }: Environment,
  session: bigint,
  device: number,
  closed: () => void,
): DeviceMemory {
  const cuda = Deno.dlopen(join(onnxRuntimeDirectory(), CUDA_PROVIDER_FILE), CUDA_SYMBOLS);
  const { words } = newWords(1);
  check(
    api,
    api.CreateMemoryInfo(cString("Cuda"), DEVICE_ALLOCATOR, device, MEMORY_TYPE_DEFAULT, words),
    "describe CUDA memory",
  );
  const info = words[0];
  check(api, api.CreateAllocator(session, info, words), `allocate memory of CUDA device ${device}`);
  const allocator = words[0];
  let users = 1;

  const checkCuda = (code: number, attempt: string) => {
    if (code === 0) return;
    const text = cuda.symbols.cudaGetErrorString(code);
    throw new Error(
      `Cannot ${attempt}: CUDA says ${code}, ${text === null ? "" : Deno.UnsafePointerView.getCString(text)}`,
    );
  };
  return {
    provider: "cuda",
    info,
    allocator,
    write(address, source) {
      const bytes = new Uint8Array(source.buffer as ArrayBuffer, source.byteOffset, source.byteLength);
      const code = cuda.symbols.cudaMemcpy(address, bytes, BigInt(bytes.length), COPY_BY_ADDRESS);
      checkCuda(code, `copy ${bytes.length} bytes to the device`);
      // cudaMemcpy from pageable memory returns before the last bytes have arrived; ONNX Runtime's streams do not wait for it.
      checkCuda(cuda.symbols.cudaStreamSynchronize(0n), `copy ${bytes.length} bytes to the device`);
    },
    async read(address, byteLength) {
      const bytes = new Uint8Array(new ArrayBuffer(byteLength));
      const copy = cuda.symbols.cudaMemcpySlow(addressOf(bytes), address, BigInt(byteLength), COPY_BY_ADDRESS);
      const code = await whileKept([bytes], copy);
      checkCuda(code, `copy ${byteLength} bytes from the device`);
      return bytes.buffer;
    },
    retain() {
      users++;
    },
    release() {
      if (--users > 0) return;
      api.ReleaseAllocator(allocator);
      api.ReleaseMemoryInfo(info);
      closed();
    },
  };
}
