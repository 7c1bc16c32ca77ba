/**
 * Graphs as ONNX protobuf.
 *
 * @module
 */
import { create, toBinary } from "@bufbuild/protobuf";
import type { OperatorFunction } from "../../kernels/functions/types.ts";
import type { DType, TensorData } from "../../kernels/runtime/types.ts";
import { bytesOf, ONNX_TYPES } from "./dtype.ts";
import { encodeFunction, functionImports } from "./encode_function.ts";
import {
  type AttributeProto,
  AttributeProto_AttributeType as AttributeType,
  AttributeProtoSchema,
  type GraphProto,
  GraphProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  type OperatorSetIdProto,
  OperatorSetIdProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProto_DataLocation,
  TensorProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from "./onnx_pb.ts";
import type { Attribute, FunctionDefinition, Graph, Node, Value } from "./types.ts";

/** IR version written by default: the first with opset 21 and function-attribute defaults; read by ONNX Runtime ≥ 1.18. */
const IR_VERSION = 10n;

/** Protobuf cannot hold more in one message; bigger weights belong in external data. */
const MOST_MODEL_BYTES = 2 ** 31 - 1;

/** Where the bytes of an external initializer lie. */
export interface ExternalPlace {
  /** File name, relative to the model's directory. */
  readonly location: string;
  readonly offset: number;
  readonly length: number;
}

/** Names under which values are written, where they differ from those in the graph. */
type Renames = ReadonlyMap<string, string>;

const NO_RENAMES: Renames = new Map();

/** How a model is encoded. */
export interface EncodeOptions {
  /** Entries of `metadata_props`. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** More model-local functions than the graph has. */
  readonly functions?: readonly (FunctionDefinition | OperatorFunction)[];
  /** Places of external initializers by name; {@linkcode writeModel} gives them. */
  readonly places?: ReadonlyMap<string, ExternalPlace>;
  readonly producerVersion?: string;
  /** Default 10. */
  readonly irVersion?: number;
  readonly doc?: string;
}

/** A tensor message with its elements inline. */
export function encodeTensor(name: string, dtype: DType, shape: readonly number[], data: TensorData): TensorProto {
  const tensor = create(TensorProtoSchema, { name, dataType: ONNX_TYPES[dtype], dims: shape.map(BigInt) });
  if (Array.isArray(data)) tensor.stringData = data.map((each) => new TextEncoder().encode(each));
  else tensor.rawData = bytesOf(data);
  return tensor;
}

function encodeValue(value: Value): ValueInfoProto {
  const dim = value.shape.map((each) => ({
    value: typeof each === "number"
      ? { case: "dimValue" as const, value: BigInt(each) }
      : each.startsWith("?")
      ? { case: undefined }
      : { case: "dimParam" as const, value: each },
  }));
  return create(ValueInfoProtoSchema, {
    name: value.name,
    type: { value: { case: "tensorType", value: { elemType: ONNX_TYPES[value.dtype], shape: { dim } } } },
  });
}

const REFERENCE_TYPES = {
  int: AttributeType.INT,
  ints: AttributeType.INTS,
  float: AttributeType.FLOAT,
  floats: AttributeType.FLOATS,
  string: AttributeType.STRING,
  tensor: AttributeType.TENSOR,
} as const;

/** An attribute message. */
export function encodeAttribute(name: string, value: Attribute, renames: Renames = NO_RENAMES): AttributeProto {
  const text = new TextEncoder();
  const init = (fields: Partial<AttributeProto>) => create(AttributeProtoSchema, { ...fields, name } as AttributeProto);
  if (typeof value === "bigint") return init({ type: AttributeType.INT, i: value });
  if (typeof value === "number") {
    return Number.isInteger(value)
      ? init({ type: AttributeType.INT, i: BigInt(value) })
      : init({ type: AttributeType.FLOAT, f: value });
  }
  if (typeof value === "string") return init({ type: AttributeType.STRING, s: text.encode(value) });
  if (isList(value)) {
    if (value.length > 0 && typeof value[0] === "string") {
      return init({ type: AttributeType.STRINGS, strings: value.map((each) => text.encode(String(each))) });
    }
    return init({ type: AttributeType.INTS, ints: value.map((each) => BigInt(each)) });
  }
  if ("float" in value) return init({ type: AttributeType.FLOAT, f: value.float });
  if ("floats" in value) return init({ type: AttributeType.FLOATS, floats: [...value.floats] });
  if ("graph" in value) return init({ type: AttributeType.GRAPH, g: encodeGraph(value.graph, undefined, renames) });
  if ("reference" in value) return init({ type: REFERENCE_TYPES[value.type], refAttrName: value.reference });
  const { dtype, shape, data } = value.tensor;
  return init({ type: AttributeType.TENSOR, t: encodeTensor("", dtype, shape, data) });
}

function isList(value: Attribute): value is readonly number[] | readonly string[] {
  return Array.isArray(value);
}

/** A node message. */
export function encodeNode(node: Node, renames: Renames = NO_RENAMES): NodeProto {
  const nameOf = (value: Value | undefined) => (value === undefined ? "" : renames.get(value.name) ?? value.name);
  return create(NodeProtoSchema, {
    name: node.name,
    opType: node.type,
    domain: node.domain,
    input: node.inputs.map(nameOf),
    output: node.outputs.map(nameOf),
    attribute: Object.entries(node.attributes).map(([name, value]) => encodeAttribute(name, value, renames)),
  });
}

/**
 * Identity nodes that only give a value the name of a graph output: the value is written under that name instead, since
 * runtimes would copy it (a whole key/value cache a step).
 */
function outputNames(graph: Graph, outer: Renames): { renames: Renames; skipped: ReadonlySet<Node> } {
  const renames = new Map(outer), skipped = new Set<Node>();
  const produced = new Set(graph.nodes.flatMap(({ outputs }) => outputs.map(({ name }) => name)));
  const outputs = new Set(graph.graphOutputs.map(({ name }) => name));
  for (const node of graph.nodes) {
    if (node.type !== "Identity" || node.domain !== "" || !outputs.has(node.outputs[0].name)) continue;
    const name = node.inputs[0]!.name;
    if (!produced.has(name) || outputs.has(name) || renames.has(name)) continue;
    renames.set(name, node.outputs[0].name);
    skipped.add(node);
  }
  return { renames, skipped };
}

/** A graph message; external initializers need their places. */
export function encodeGraph(
  graph: Graph,
  places?: ReadonlyMap<string, ExternalPlace>,
  outer: Renames = NO_RENAMES,
): GraphProto {
  const { renames, skipped } = outputNames(graph, outer);
  const initializer: TensorProto[] = [];
  for (const [name, { value, data }] of graph.constants) {
    initializer.push(encodeTensor(name, value.dtype, value.shape as readonly number[], data));
  }
  for (const [name, { value }] of graph.externals) {
    const place = places?.get(name);
    if (place === undefined) {
      throw new TypeError(`Cannot encode "${name}" as its bytes come from a stream: write the model with writeModel()`);
    }
    initializer.push(create(TensorProtoSchema, {
      name,
      dataType: ONNX_TYPES[value.dtype],
      dims: value.shape.map((dim) => BigInt(dim)),
      dataLocation: TensorProto_DataLocation.EXTERNAL,
      externalData: [
        { key: "location", value: place.location },
        { key: "offset", value: String(place.offset) },
        { key: "length", value: String(place.length) },
      ],
    }));
  }
  return create(GraphProtoSchema, {
    name: graph.name,
    node: graph.nodes.filter((node) => !skipped.has(node)).map((node) => encodeNode(node, renames)),
    initializer,
    input: graph.graphInputs.map(encodeValue),
    output: graph.graphOutputs.map(encodeValue),
  });
}

/** A version of an operator set. */
export function encodeImport(domain: string, version: number): OperatorSetIdProto {
  return create(OperatorSetIdProtoSchema, { domain, version: BigInt(version) });
}

/** Operator sets of a graph. */
export function encodeImports(graph: Graph): OperatorSetIdProto[] {
  return [["", graph.opset] as const, ...graph.imports].map(([domain, version]) => encodeImport(domain, version));
}

/** The whole model as a message. */
export function encodeModelProto(graph: Graph, options: EncodeOptions = {}): ModelProto {
  if (graph.graphOutputs.length === 0) throw new TypeError(`Cannot encode graph ${graph.name}: it has no output`);
  const functions = new Map<string, FunctionDefinition | OperatorFunction>();
  for (const each of [...graph.functions, ...(options.functions ?? [])]) {
    functions.set(`${each.domain}::${each.name}`, each);
  }
  const imports = encodeImports(graph);
  for (const each of functions.values()) {
    const own = encodeImport(each.domain, 1);
    for (const needed of [own, ...functionImports(each)]) {
      if (!imports.some(({ domain }) => domain === needed.domain)) imports.push(needed);
    }
  }
  return create(ModelProtoSchema, {
    irVersion: options.irVersion === undefined ? IR_VERSION : BigInt(options.irVersion),
    producerName: "dbf",
    producerVersion: options.producerVersion ?? "0.1.0",
    docString: options.doc ?? "",
    graph: encodeGraph(graph, options.places),
    opsetImport: imports,
    functions: [...functions.values()].map(encodeFunction),
    metadataProps: Object.entries(options.metadata ?? {}).map(([key, value]) =>
      create(StringStringEntryProtoSchema, { key, value })
    ),
  });
}

/**
 * Encodes a graph as the bytes of an `.onnx` file.
 *
 * @throws {TypeError} when an initializer comes from a stream and has no place, or when nothing is an output.
 * @throws {RangeError} above protobuf's 2 GiB.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { encodeModel } from "./encode.ts";
 * import { decodeModel } from "./decode.ts";
 * import { createGraph } from "./graph.ts";
 * import { add } from "./ops.ts";
 *
 * const g = createGraph("increment");
 * g.output("y", add(g, g.input("x", "float32", ["n"]), 1));
 * assertEquals(decodeModel(encodeModel(g)).graph?.node[0].opType, "Add");
 * ```
 */
export function encodeModel(graph: Graph, options: EncodeOptions = {}): Uint8Array {
  const bytes = toBinary(ModelProtoSchema, encodeModelProto(graph, options));
  if (bytes.length > MOST_MODEL_BYTES) {
    throw new RangeError(
      `Cannot encode ${graph.name} in ${bytes.length} bytes: use external data for its big initializers`,
    );
  }
  return bytes;
}
