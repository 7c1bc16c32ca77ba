/**
 * Finds dbf's operator library: the native kernels of `ai.dbf` for the provider of a session.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Provider } from "./types.ts";

/** dbf's operator library, found. */
export interface NativeLibrary {
  readonly path: string;
  /** Instruction set that its kernels dispatch to on this machine, e.g. `"avx512-vnni"`; `"unknown"` when it does not tell. */
  readonly isa: string;
  /** Operators in it, without their domain; a library built before it could tell has `BinaryMatMul` alone. */
  readonly operators: readonly string[];
}

/** File names by provider: each holds only the kernels of its own provider, so that no node lands on another one. */
const FILES: Readonly<Partial<Record<Provider, string>>> = { cpu: "libdbf_ops.so", cuda: "libdbf_ops_cuda.so" };

const BUILD_DIRECTORY = new URL("../native/build/", import.meta.url);

/** Where the operator library of a provider is looked for; `undefined` for a provider that takes no custom operators. */
export function nativeLibraryPath(provider: Provider): string | undefined {
  const file = FILES[provider];
  if (file === undefined || BUILD_DIRECTORY.protocol !== "file:") return undefined;
  return fileURLToPath(new URL(file, BUILD_DIRECTORY));
}

/**
 * Finds the operator library of a provider.
 *
 * @returns `undefined` when it is not built; sessions then run the portable bodies.
 */
export function findNativeLibrary(provider: Provider = "cpu"): NativeLibrary | undefined {
  const path = nativeLibraryPath(provider);
  if (path === undefined || !existsSync(path)) return undefined;
  return {
    path,
    isa: textOf(path, "dbf_isa") ?? "unknown",
    operators: (textOf(path, "dbf_operators") ?? "BinaryMatMul").split(","),
  };
}

/** Asks one of the library's exported functions that give a C string; `undefined` when it has none of that name. */
function textOf(path: string, symbol: string): string | undefined {
  try {
    const library = Deno.dlopen(path, { text: { name: symbol, parameters: [], result: "pointer" } });
    const pointer = library.symbols.text();
    const text = pointer === null ? undefined : Deno.UnsafePointerView.getCString(pointer);
    library.close();
    return text;
  } catch {
    return undefined;
  }
}
