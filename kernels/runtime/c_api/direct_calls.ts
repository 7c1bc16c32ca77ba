/**
 * Calls of ONNX Runtime's functions through dbf's operator library, where it is built.
 *
 * ONNX Runtime exports only the way to its table, and Deno interprets the signature of a function pointer at every call
 * (0.8 µs for one argument). For a symbol of an opened library it compiles code (some nanoseconds a call, but 0.2 ms to
 * make). So the library exports `dbf_call_N(function, N arguments)`, and the functions of every run and tensor become symbols
 * of it, each with its own signature.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { nativeLibraryPath } from "../native_library.ts";
import { FUNCTIONS } from "./table.ts";

/** Functions that runs and tensors call; the library has a `dbf_call_N` for each number of arguments. */
const FREQUENT = [
  "Run",
  "RunWithBinding",
  "CreateIoBinding",
  "ReleaseIoBinding",
  "BindInput",
  "BindOutput",
  "BindOutputToDevice",
  "GetBoundOutputValues",
  "AllocatorFree",
  "CreateTensorAsOrtValue",
  "GetTensorMutableData",
  "GetTensorElementTypeAndShapeDataReference",
  "ReleaseValue",
] as const satisfies readonly (keyof typeof FUNCTIONS)[];

/** Functions of the table by name, and the library that calls them. */
export interface DirectCalls {
  readonly path: string;
  readonly functions: Readonly<Record<string, (...parameters: never[]) => unknown>>;
}

/**
 * The functions of the table that runs call, through the library.
 *
 * @param addressOf The address of the function at a place of the table.
 * @param path The operator library; by default the CPU's.
 * @returns `undefined` where there is no such library, it is of a build without these calls, or may not be opened.
 */
export function directCalls(
  addressOf: (place: number) => bigint,
  path: string | undefined = nativeLibraryPath("cpu"),
): DirectCalls | undefined {
  if (path === undefined || !existsSync(path)) return undefined;
  const symbols = Object.fromEntries(FREQUENT.map((name) => {
    const { parameters, result } = FUNCTIONS[name];
    return [name, { name: `dbf_call_${parameters.length}`, parameters: ["u64", ...parameters], result }];
  }));
  try {
    const library = Deno.dlopen(path, symbols as Deno.ForeignLibraryInterface);
    const called = library.symbols as Record<string, (...parameters: unknown[]) => unknown>;
    const functions = FREQUENT.map((name) => [name, called[name].bind(undefined, addressOf(FUNCTIONS[name].place))]);
    return { path, functions: Object.fromEntries(functions) };
  } catch {
    return undefined;
  }
}
