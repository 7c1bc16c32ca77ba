/**
 * Names, types and shapes of a session's inputs and outputs.
 *
 * @module
 */
import { UNKNOWN_RANK } from "../feeds.ts";
import type { DType, ValueInfo } from "../types.ts";
import type { Environment } from "./environment.ts";
import { newWords, textAt } from "./memory.ts";
import { check } from "./status.ts";
import { ELEMENT_TYPES } from "./table.ts";

const DTYPE_BY_NUMBER = new Map<number, DType>(
  Object.entries(ELEMENT_TYPES).map(([dtype, number]) => [number, dtype as DType]),
);

/**
 * Reads the inputs or outputs of a session.
 *
 * @throws {TypeError} when one is no tensor, or its elements have a type that the session interface lacks.
 */
export function readValues(environment: Environment, session: bigint, kind: "input" | "output"): ValueInfo[] {
  const { api, cpuAllocator } = environment;
  const out = newWords(1).words;
  const [count, name, info] = kind === "input"
    ? [api.SessionGetInputCount, api.SessionGetInputName, api.SessionGetInputTypeInfo] as const
    : [api.SessionGetOutputCount, api.SessionGetOutputName, api.SessionGetOutputTypeInfo] as const;
  check(api, count(session, out), `count ${kind}s`);
  return Array.from({ length: Number(out[0]) }, (_, index) => {
    check(api, name(session, index, cpuAllocator, out), `name ${kind} ${index}`);
    const nameAddress = out[0];
    const text = textAt(nameAddress);
    check(api, api.AllocatorFree(cpuAllocator, nameAddress), `free the name of ${kind} ${index}`);
    check(api, info(session, index, out), `describe ${kind} "${text}"`);
    const typeInfo = out[0];
    try {
      return readType(environment, typeInfo, kind, text);
    } finally {
      api.ReleaseTypeInfo(typeInfo);
    }
  });
}

function readType({ api }: Environment, typeInfo: bigint, kind: string, name: string): ValueInfo {
  const out = newWords(1).words;
  check(api, api.CastTypeInfoToTensorInfo(typeInfo, out), `describe ${kind} "${name}"`);
  const tensorInfo = out[0];
  if (tensorInfo === 0n) {
    throw new TypeError(
      `Cannot use ${kind} "${name}": it is a sequence, map or optional value, only tensors are supported`,
    );
  }
  out[0] = 0n;
  check(api, api.GetTensorElementType(tensorInfo, out), `read the type of ${kind} "${name}"`);
  const number = Number(out[0]);
  const dtype = DTYPE_BY_NUMBER.get(number);
  if (dtype === undefined) {
    throw new TypeError(
      `Cannot use ${kind} "${name}": its ONNX element type ${number} is not among ${
        [...DTYPE_BY_NUMBER.values()].join(", ")
      }`,
    );
  }
  if (!api.TensorTypeAndShape_HasShape(tensorInfo)) return { name, dtype, shape: [UNKNOWN_RANK] };
  check(api, api.GetDimensionsCount(tensorInfo, out), `read the rank of ${kind} "${name}"`);
  const rank = Number(out[0]);
  const dimensions = new BigInt64Array(Math.max(1, rank));
  const symbols = newWords(rank).words;
  check(api, api.GetDimensions(tensorInfo, dimensions, rank), `read the shape of ${kind} "${name}"`);
  check(api, api.GetSymbolicDimensions(tensorInfo, symbols, rank), `read the shape of ${kind} "${name}"`);
  const shape = Array.from({ length: rank }, (_, axis) => {
    const size = Number(dimensions[axis]);
    return size >= 0 ? size : textAt(symbols[axis]) || -1;
  });
  return { name, dtype, shape };
}
