/**
 * What all sessions of a process share: ONNX Runtime's environment, CPU memory, and its limit.
 *
 * @module
 */
import { openLibrary, type OrtLibrary } from "./library.ts";
import { cString, cStrings, newWords } from "./memory.ts";
import { returnFreedMemory } from "./process_heap.ts";
import { check } from "./status.ts";
import type { OrtFunctions } from "./table.ts";

/** Failures are thrown; ONNX Runtime need not print them on stderr as well. */
const LOG_LEVEL_FATAL = 4;

const ARENA_ALLOCATOR = 1;
const MEMORY_TYPE_DEFAULT = 0;

/** Grow an arena by what is asked for instead of by powers of two, which can double the peak. */
const EXTEND_SAME_AS_REQUESTED = 1n;

/** The process's environment. It is never released: other users of the library in this process share it. */
export interface Environment {
  readonly library: OrtLibrary;
  readonly api: OrtFunctions;
  readonly env: bigint;
  /** The allocator of plain CPU memory, without an arena. */
  readonly cpuAllocator: bigint;
  /** Describes CPU memory. */
  readonly cpuMemory: bigint;
}

let shared: Environment | undefined;

/**
 * Opens the library and makes the environment, once a process.
 *
 * @throws {Error} as `openLibrary` does.
 */
export function environment(): Environment {
  if (shared !== undefined) return shared;
  const library = openLibrary();
  returnFreedMemory();
  const { api } = library;
  const { words } = newWords(1);
  check(api, api.CreateEnv(LOG_LEVEL_FATAL, cString("dbf"), words), "make ONNX Runtime's environment");
  const env = words[0];
  check(api, api.GetAllocatorWithDefaultOptions(words), "get CPU memory");
  const cpuAllocator = words[0];
  check(api, api.CreateCpuMemoryInfo(ARENA_ALLOCATOR, MEMORY_TYPE_DEFAULT, words), "describe CPU memory");
  return shared = { library, api, env, cpuAllocator, cpuMemory: words[0] };
}

let arena: { readonly bytes: number; users: number } | undefined;

/**
 * Bounds the CPU memory of sessions that use the environment's arena, until the returned function was called as often as
 * this one.
 *
 * @throws {RangeError} when another open runtime bounds it differently: the arena is the process's.
 */
export function limitCpuArena({ api, env, cpuMemory }: Environment, bytes: number): () => void {
  if (!Number.isSafeInteger(bytes) || bytes <= 0) {
    throw new RangeError(`Cannot bound the CPU arena to ${bytes} bytes: it must be a positive integer`);
  }
  if (arena !== undefined && arena.bytes !== bytes) {
    throw new RangeError(
      `Cannot bound the CPU arena to ${bytes} bytes: another open runtime bounds it to ${arena.bytes}; close that one first`,
    );
  }
  if (arena === undefined) {
    const out = newWords(1).words;
    const keys = cStrings(["max_mem", "arena_extend_strategy"]);
    const values = BigUint64Array.of(BigInt(bytes), EXTEND_SAME_AS_REQUESTED);
    check(api, api.CreateArenaCfgV2(keys.words, values, keys.count, out), "configure the CPU arena");
    const configuration = out[0];
    try {
      check(api, api.CreateAndRegisterAllocator(env, cpuMemory, configuration), "make the CPU arena");
    } finally {
      api.ReleaseArenaCfg(configuration);
    }
    arena = { bytes, users: 0 };
  }
  arena.users++;
  let ended = false;
  return () => {
    if (ended || arena === undefined) return;
    ended = true;
    if (--arena.users > 0) return;
    arena = undefined;
    check(api, api.UnregisterAllocator(env, cpuMemory), "release the CPU arena");
  };
}
