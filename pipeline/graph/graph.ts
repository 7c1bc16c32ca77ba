/**
 * The graph under construction.
 *
 * @module
 */
import type { OperatorFunction } from "../../kernels/functions/types.ts";
import type { DType, TensorData } from "../../kernels/runtime/types.ts";
import { arrayOf, bytesOf, dtypeOfArray } from "./dtype.ts";
import { inferenceRule } from "./infer.ts";
import type { Attribute, Dim, ExternalSource, FunctionDefinition, Graph, Node, Value } from "./types.ts";

/** Equal constants up to this many elements are stored once. */
const MOST_SHARED_ELEMENTS = 64;

/** How a graph is made. */
export interface GraphOptions {
  /** Version of ONNX's own operator set. Default 21. */
  readonly opset?: number;
  /** Versions of other operator sets, by domain. */
  readonly imports?: Readonly<Record<string, number>>;
  /** For a subgraph of If, Loop or Scan: the graph whose values its nodes may use too. */
  readonly outer?: Graph;
}

function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

/**
 * Starts an empty graph.
 *
 * @param name Name of the graph; of a subgraph, also the prefix of its names, so unique inside `outer`.
 * @returns A graph; operators are added by the functions in `ops.ts`.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { createGraph } from "./graph.ts";
 * import { add, matMul } from "./ops.ts";
 *
 * const g = createGraph("affine");
 * const x = g.input("x", "float32", ["batch", 3]);
 * const w = g.constant(new Float32Array(6), [3, 2]);
 * const y = g.output("y", add(g, matMul(g, x, w), 1));
 * assertEquals(y.shape, ["batch", 2]);
 * ```
 */
export function createGraph(name: string, options: GraphOptions = {}): Graph {
  const { opset = options.outer?.opset ?? 21, outer } = options;
  const nodes: Node[] = [];
  const graphInputs: Value[] = [];
  const graphOutputs: Value[] = [];
  const constants = new Map<string, { value: Value; data: TensorData }>();
  const externals = new Map<string, { value: Value; source: ExternalSource }>();
  const imports = new Map(Object.entries(options.imports ?? {}));
  const functions: (FunctionDefinition | OperatorFunction)[] = [];
  const names = new Set<string>();
  const shared = new Map<string, Value>();
  const integerValues = new Map<string, readonly Dim[]>();
  const root = outer === undefined ? "" : `${name}/`;
  let prefix = root, counter = 0, unknown = 0;

  const define = (valueName: string, dtype: DType, shape: readonly Dim[]): Value => {
    if (valueName === "") {
      throw new TypeError(`Cannot name a value "" in graph ${name}: ONNX keeps it for absent inputs`);
    }
    if (names.has(valueName)) throw new RangeError(`Cannot name two values "${valueName}" in graph ${name}`);
    for (const dim of shape) {
      if (typeof dim === "number" && (!Number.isInteger(dim) || dim < 0)) {
        throw new RangeError(`Cannot give "${valueName}" the shape [${shape.join(", ")}]`);
      }
    }
    names.add(valueName);
    return Object.freeze({ name: valueName, dtype, shape: Object.freeze([...shape]) });
  };

  const initializer = (
    valueName: string,
    dtype: DType,
    shape: readonly number[],
    source: TensorData | ExternalSource,
  ) => {
    const value = define(valueName, dtype, shape);
    if ("chunks" in source) {
      externals.set(valueName, { value, source });
      return value;
    }
    if (source.length !== elementsOf(shape)) {
      throw new RangeError(`Cannot store "${valueName}" as [${shape.join(", ")}]: it has ${source.length} elements`);
    }
    constants.set(valueName, { value, data: source });
    if (shape.length <= 1 && (source instanceof BigInt64Array || source instanceof Int32Array)) {
      integerValues.set(valueName, Array.from(source, Number));
    }
    return value;
  };

  const integers = (value: Value): readonly Dim[] | undefined =>
    integerValues.get(value.name) ?? outer?.integers(value);

  const graph: Graph = {
    name,
    nodes,
    graphInputs,
    graphOutputs,
    constants,
    externals,
    opset,
    imports,
    functions,
    integers,
    initializer,
    function(definition) {
      if (functions.some((each) => each.domain === definition.domain && each.name === definition.name)) return;
      functions.push(definition);
      if (!imports.has(definition.domain)) imports.set(definition.domain, 1);
    },
    input(valueName, dtype, shape) {
      const value = define(valueName, dtype, shape);
      graphInputs.push(value);
      return value;
    },
    constant(data, shape, dtype) {
      const type = dtype ?? (typeof data === "number" ? "float32" : dtypeOfArray(data));
      const elements = typeof data === "number" ? arrayOf(type, [data]) : data;
      const dims = shape ?? (typeof data === "number" ? [] : [elements.length]);
      if (elements.length > MOST_SHARED_ELEMENTS || Array.isArray(elements)) {
        return initializer(`${prefix}constant_${counter++}`, type, dims, elements);
      }
      const key = `${type}[${dims.join(",")}]${bytesOf(elements).join(",")}`;
      let value = shared.get(key);
      if (value === undefined) {
        value = initializer(`${root}constant_${counter++}`, type, dims, elements);
        shared.set(key, value);
      }
      return value;
    },
    node(type, inputs, attributes = {}, nodeOptions = {}) {
      const domain = nodeOptions.domain ?? "";
      for (const input of inputs) {
        if (input !== undefined && !names.has(input.name) && outer === undefined) {
          throw new RangeError(`Cannot use "${input.name}" in graph ${name}: it belongs to another graph`);
        }
      }
      if (domain !== "" && !imports.has(domain) && outer === undefined) imports.set(domain, 1);
      const rule = domain === "" ? inferenceRule(type) : undefined;
      const context = {
        type,
        inputs,
        attributes,
        integers: (value: Value | undefined) => (value === undefined ? undefined : integers(value)),
        fresh: () => `?${root}${unknown++}`,
      };
      const inferred = nodeOptions.outputs ?? rule?.(context);
      if (inferred === undefined) {
        throw new TypeError(`Cannot infer what ${domain}${domain && "::"}${type} gives: state its outputs`);
      }
      const nodeName = `${prefix}${nodeOptions.name ?? `${type}_${counter++}`}`;
      const outputs = inferred.map((each, index) =>
        define(index === 0 ? nodeName : `${nodeName}:${index}`, each.dtype, each.shape)
      );
      nodes.push({ type, domain, name: nodeName, inputs, outputs, attributes });
      const known = foldIntegers(type, inputs, attributes, (value) => integers(value));
      if (known !== undefined && domain === "") integerValues.set(outputs[0].name, known);
      return outputs;
    },
    output(valueName, value) {
      let result = value;
      if (value.name !== valueName || graphOutputs.includes(value) || graphInputs.includes(value)) {
        if (names.has(valueName)) throw new RangeError(`Cannot name an output "${valueName}": a value has that name`);
        result = define(valueName, value.dtype, value.shape);
        nodes.push({
          type: "Identity",
          domain: "",
          name: `${valueName}/Identity`,
          inputs: [value],
          outputs: [result],
          attributes: {},
        });
      }
      graphOutputs.push(result);
      return result;
    },
    scope(inner, body) {
      const before = prefix;
      prefix = `${before}${inner}/`;
      try {
        return body();
      } finally {
        prefix = before;
      }
    },
  };
  return graph;
}

/** What Shape, Concat, Slice, Gather, Unsqueeze, Squeeze and Cast make of known integers. */
function foldIntegers(
  type: string,
  inputs: readonly (Value | undefined)[],
  attributes: Readonly<Record<string, Attribute>>,
  integers: (value: Value) => readonly Dim[] | undefined,
): readonly Dim[] | undefined {
  const [first, second, third] = inputs;
  if (first === undefined) return undefined;
  const known = (value: Value | undefined) => (value === undefined ? undefined : integers(value));
  switch (type) {
    case "Shape": {
      const end = attributes.end === undefined ? first.shape.length : Number(attributes.end);
      return first.shape.slice(Number(attributes.start ?? 0), end);
    }
    case "Concat": {
      const parts = inputs.map(known);
      return parts.every((part) => part !== undefined) ? parts.flat() : undefined;
    }
    case "Slice": {
      const list = known(first), start = known(second)?.[0], end = known(third)?.[0];
      if (inputs[4] !== undefined || typeof start !== "number" || typeof end !== "number") return undefined;
      return list?.slice(start, end);
    }
    case "Gather": {
      const list = known(first), at = known(second);
      if (list === undefined || at === undefined || !at.every((index) => typeof index === "number")) return undefined;
      return at.map((index) => list.at(Number(index))!);
    }
    case "Unsqueeze":
    case "Squeeze":
    case "Identity":
      return first.shape.length <= 1 ? known(first) : undefined;
    case "Cast":
      return known(first);
    default:
      return undefined;
  }
}
