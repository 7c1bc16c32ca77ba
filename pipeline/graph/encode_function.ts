/**
 * Model-local functions as ONNX protobuf, from a body built as a graph or from a body listed as data.
 *
 * @module
 */
import { create } from "@bufbuild/protobuf";
import type { FunctionAttribute, OperatorFunction } from "../../kernels/functions/types.ts";
import { encodeAttribute, encodeImport, encodeImports, encodeNode, encodeTensor } from "./encode.ts";
import {
  AttributeProto_AttributeType as AttributeType,
  AttributeProtoSchema,
  type FunctionProto,
  FunctionProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  type OperatorSetIdProto,
} from "./onnx_pb.ts";
import type { Attribute, FunctionDefinition } from "./types.ts";

/** Operator sets that the body of a function uses. */
export function functionImports(definition: FunctionDefinition | OperatorFunction): OperatorSetIdProto[] {
  if ("body" in definition) return encodeImports(definition.body);
  return definition.opsets.map(({ domain, version }) => encodeImport(domain, version));
}

/** Constants of a body are Constant nodes: functions have no initializers. */
function constantNodes({ name, body }: FunctionDefinition): NodeProto[] {
  if (body.externals.size > 0) throw new TypeError(`Cannot encode function ${name}: its body has external data`);
  return [...body.constants].map(([output, { value, data }]) =>
    create(NodeProtoSchema, {
      name: output,
      opType: "Constant",
      output: [output],
      attribute: [create(AttributeProtoSchema, {
        name: "value",
        type: AttributeType.TENSOR,
        t: encodeTensor("", value.dtype, value.shape as readonly number[], data),
      })],
    })
  );
}

function plainAttribute(value: FunctionAttribute): Attribute {
  if ("int" in value) return BigInt(value.int);
  if ("ints" in value) return value.ints;
  if ("string" in value) return value.string;
  if ("ref" in value) return { reference: value.ref, type: value.type };
  return value;
}

function listedNodes(definition: OperatorFunction): NodeProto[] {
  return definition.nodes.map((node, index) =>
    create(NodeProtoSchema, {
      name: `${node.type}_${index}`,
      opType: node.type,
      domain: node.domain,
      input: [...node.inputs],
      output: [...node.outputs],
      attribute: Object.entries(node.attributes).map(([name, value]) => encodeAttribute(name, plainAttribute(value))),
    })
  );
}

/**
 * A function message.
 *
 * @throws {TypeError} when a body built as a graph has external data.
 */
export function encodeFunction(definition: FunctionDefinition | OperatorFunction): FunctionProto {
  const { name, domain, attributes } = definition;
  const common = { name, domain, attribute: [...attributes], opsetImport: functionImports(definition) };
  if ("body" in definition) {
    const { body } = definition;
    return create(FunctionProtoSchema, {
      ...common,
      input: body.graphInputs.map((each) => each.name),
      output: body.graphOutputs.map((each) => each.name),
      node: [...constantNodes(definition), ...body.nodes.map((node) => encodeNode(node))],
    });
  }
  return create(FunctionProtoSchema, {
    ...common,
    docString: definition.description,
    input: [...definition.inputs],
    output: [...definition.outputs],
    node: listedNodes(definition),
  });
}
