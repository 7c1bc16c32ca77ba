/**
 * Finds and opens the ONNX Runtime library that onnxruntime-node ships, and checks that it is the one that the table of
 * functions describes.
 *
 * @module
 */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { directCalls } from "./direct_calls.ts";
import { API_VERSION, FUNCTIONS, type OrtFunctions } from "./table.ts";

/** The opened library. */
export interface OrtLibrary {
  readonly path: string;
  /** ONNX Runtime's version, e.g. `"1.30.0"`. */
  readonly version: string;
  /** ONNX Runtime's description of its build. */
  readonly build: string;
  readonly api: OrtFunctions;
  /** Library of dbf through which functions are called fast, where it is built; see `direct_calls.ts`. */
  readonly callsThrough: string | undefined;
}

const LIBRARY_NAMES: Readonly<Record<string, string>> = {
  linux: "libonnxruntime.so.1",
  darwin: "libonnxruntime.1.dylib",
  windows: "onnxruntime.dll",
};

/**
 * Directory in which onnxruntime-node keeps the libraries for this system; providers (CUDA) belong beside them.
 *
 * @throws {Error} when the package is not installed.
 */
export function onnxRuntimeDirectory(): string {
  const require = createRequire(import.meta.url);
  let entry: string;
  try {
    entry = require.resolve("onnxruntime-node");
  } catch (cause) {
    throw new Error(
      "Cannot find the package onnxruntime-node from " + import.meta.url + ": install it with `deno install`",
      { cause },
    );
  }
  const os = Deno.build.os === "windows" ? "win32" : Deno.build.os;
  const arch = Deno.build.arch === "aarch64" ? "arm64" : "x64";
  return join(dirname(dirname(entry)), "bin", "napi-v6", os, arch);
}

/** Path of ONNX Runtime's library for this system, whether or not it exists. */
export function onnxRuntimePath(): string {
  const name = LIBRARY_NAMES[Deno.build.os];
  if (name === undefined) {
    throw new Error(
      `Cannot find ONNX Runtime on ${Deno.build.os}: onnxruntime-node ships it for linux, darwin and windows`,
    );
  }
  return join(onnxRuntimeDirectory(), name);
}

let opened: OrtLibrary | undefined;

/**
 * Opens the library, once a process.
 *
 * @throws {Deno.errors.NotCapable} without FFI permission.
 * @throws {Error} when the library is missing, too old, or not what the table describes.
 */
export function openLibrary(): OrtLibrary {
  return opened ??= open(onnxRuntimePath());
}

function open(path: string): OrtLibrary {
  const entry = { OrtGetApiBase: { parameters: [], result: "pointer" } } as const;
  const library = Deno.dlopen(path, entry);
  const base = library.symbols.OrtGetApiBase();
  if (base === null) throw new Error(`Cannot use ${path} as ONNX Runtime: it has no API`);
  const view = new Deno.UnsafePointerView(base);
  const version = text(callable(view.getPointer(8), path, { parameters: [], result: "pointer" })());
  const minor = Number(version.split(".")[1]);
  if (!version.startsWith("1.") || !(minor >= API_VERSION)) {
    throw new Error(
      `Cannot use ${path} as ONNX Runtime with C API version ${API_VERSION}: it is version ${version}, needed is 1.${API_VERSION} or later`,
    );
  }
  const table = callable(view.getPointer(0), path, { parameters: ["u32"], result: "pointer" })(API_VERSION);
  if (table === null) {
    throw new Error(`Cannot use ${path}: ONNX Runtime ${version} refuses C API version ${API_VERSION}`);
  }
  const places = new Deno.UnsafePointerView(table);
  const byAddress = Object.fromEntries(
    Object.entries(FUNCTIONS).map(([name, { place, parameters, result, nonblocking }]) => [
      name,
      callable(places.getPointer(8 * place), `${path}, ${name}`, { parameters, result, nonblocking }),
    ]),
  );
  const direct = directCalls((place) => places.getBigUint64(8 * place));
  const api = { ...byAddress, ...direct?.functions } as unknown as OrtFunctions;
  const build = text(api.GetBuildInfoString());
  checkTable(path, api, build);
  return { path, version, build, api, callsThrough: direct?.path };
}

/** Proves the table by two functions far apart whose results are known. */
function checkTable(path: string, api: OrtFunctions, build: string): void {
  const message = "table check";
  const status = api.CreateStatus(2, new TextEncoder().encode(message + "\0"));
  const code = api.GetErrorCode(status);
  const returned = text(api.GetErrorMessage(status));
  api.ReleaseStatus(status);
  if (code !== 2 || returned !== message || !build.startsWith("ORT Build Info")) {
    throw new Error(
      `Cannot use ${path} as ONNX Runtime: its function table is not that of C API version ${API_VERSION}`,
    );
  }
}

function callable<const F extends Deno.ForeignFunction>(
  pointer: Deno.PointerValue,
  name: string,
  declaration: F,
): Deno.FromForeignFunction<F> {
  if (pointer === null) throw new Error(`Cannot use ${name} as a function of ONNX Runtime: its address is null`);
  const target = new Deno.UnsafeFnPointer(pointer as Deno.PointerObject<F>, declaration);
  return target.call.bind(target) as Deno.FromForeignFunction<F>;
}

function text(pointer: Deno.PointerValue): string {
  return pointer === null ? "" : Deno.UnsafePointerView.getCString(pointer);
}
