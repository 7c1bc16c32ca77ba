/**
 * ONNX Runtime's failures as exceptions.
 *
 * @module
 */
import type { OrtFunctions } from "./table.ts";

const CODES = [
  "OK",
  "FAIL",
  "INVALID_ARGUMENT",
  "NO_SUCHFILE",
  "NO_MODEL",
  "ENGINE_ERROR",
  "RUNTIME_EXCEPTION",
  "INVALID_PROTOBUF",
  "MODEL_LOADED",
  "NOT_IMPLEMENTED",
  "INVALID_GRAPH",
  "EP_FAIL",
  "MODEL_LOAD_CANCELED",
  "MODEL_REQUIRES_COMPILATION",
  "NOT_FOUND",
] as const;

/** A failure that ONNX Runtime reported, in its own words. */
export class OrtError extends Error {
  override readonly name = "OrtError";
  /** ONNX Runtime's error code, e.g. `"INVALID_GRAPH"`. */
  readonly code: string;

  /** `message` says what dbf attempted, followed by ONNX Runtime's text. */
  constructor(message: string, code: string) {
    super(message);
    this.code = code;
  }
}

/**
 * Ends a call of the C API.
 *
 * @param attempt What was attempted, completing "Cannot …".
 * @throws {OrtError} when the status is a failure; the status is released.
 */
export function check(api: OrtFunctions, status: bigint, attempt: string | (() => string)): void {
  if (status === 0n) return;
  const code = CODES[api.GetErrorCode(status)] ?? "UNKNOWN";
  const pointer = api.GetErrorMessage(status);
  const text = pointer === null ? "" : Deno.UnsafePointerView.getCString(pointer);
  api.ReleaseStatus(status);
  throw new OrtError(
    `Cannot ${typeof attempt === "string" ? attempt : attempt()}: ONNX Runtime says ${code}: ${text}`,
    code,
  );
}
