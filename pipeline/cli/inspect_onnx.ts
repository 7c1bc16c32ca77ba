/**
 * What is in an ONNX file: operators, inputs, outputs, functions and where the weights are.
 *
 * @module
 */
import { decodeModel } from "../graph/decode.ts";
import {
  type GraphProto,
  TensorProto_DataLocation,
  TensorProto_DataType,
  type ValueInfoProto,
} from "../graph/onnx_pb.ts";
import { renderPairs, renderTable } from "./table.ts";
import { formatBytes } from "./units.ts";

/** The largest that protobuf allows. */
const MAX_MODEL_BYTES = 2 ** 31 - 1;
/** More inputs and outputs than these are counted, not listed. */
const LISTED = 8;

/** A graph, summed up. */
export interface OnnxSummary {
  readonly producer: string;
  /** Operator sets by domain; `""` is ONNX's own. */
  readonly opsets: Readonly<Record<string, number>>;
  readonly metadata: Readonly<Record<string, string>>;
  /** Nodes by `domain::type`, subgraphs included. */
  readonly operators: Readonly<Record<string, number>>;
  readonly functions: readonly { readonly name: string; readonly nodes: number }[];
  readonly inputs: readonly { readonly name: string; readonly type: string }[];
  readonly outputs: readonly { readonly name: string; readonly type: string }[];
  readonly initializers: { readonly count: number; readonly external: number; readonly embeddedBytes: number };
  /** External files with the bytes that the graph takes from each. */
  readonly externalData: Readonly<Record<string, number>>;
  readonly modelBytes: number;
}

/**
 * Reads the graph of an ONNX file; external data is not read.
 *
 * @throws {RangeError} when the file is larger than protobuf allows.
 * @throws {TypeError} when it is no ONNX model.
 */
export async function inspectOnnx(path: string): Promise<OnnxSummary> {
  const { size } = await Deno.stat(path);
  if (size > MAX_MODEL_BYTES) throw new RangeError(`Cannot read "${path}" as ONNX: ${size} bytes are more than 2 GiB`);
  const model = decodeModel(await Deno.readFile(path));
  const graph = model.graph!;
  const operators: Record<string, number> = {};
  countOperators(graph, operators);
  const externalData: Record<string, number> = {};
  let external = 0, embeddedBytes = 0;
  for (const tensor of graph.initializer) {
    embeddedBytes += tensor.rawData.length;
    if (tensor.dataLocation !== TensorProto_DataLocation.EXTERNAL) continue;
    external++;
    const field = (key: string) => tensor.externalData.find((entry) => entry.key === key)?.value;
    const location = field("location") ?? "?";
    externalData[location] = (externalData[location] ?? 0) + Number(field("length") ?? 0);
  }
  return {
    producer: `${model.producerName} ${model.producerVersion}`.trim(),
    opsets: Object.fromEntries(model.opsetImport.map(({ domain, version }) => [domain, Number(version)])),
    metadata: Object.fromEntries(model.metadataProps.map(({ key, value }) => [key, value])),
    operators: Object.fromEntries(Object.entries(operators).sort((a, b) => b[1] - a[1])),
    functions: model.functions.map(({ domain, name, node }) => ({ name: `${domain}::${name}`, nodes: node.length })),
    inputs: graph.input.map(describeValue),
    outputs: graph.output.map(describeValue),
    initializers: { count: graph.initializer.length, external, embeddedBytes },
    externalData,
    modelBytes: size,
  };
}

function countOperators(graph: GraphProto, counts: Record<string, number>): void {
  for (const { domain, opType, attribute } of graph.node) {
    const name = domain === "" ? opType : `${domain}::${opType}`;
    counts[name] = (counts[name] ?? 0) + 1;
    for (const { g, graphs } of attribute) {
      if (g !== undefined) countOperators(g, counts);
      for (const each of graphs) countOperators(each, counts);
    }
  }
}

function describeValue({ name, type }: ValueInfoProto): { name: string; type: string } {
  if (type?.value.case !== "tensorType") return { name, type: "not a tensor" };
  const { elemType, shape } = type.value.value;
  const dims = shape?.dim.map(({ value }) => value.case === undefined ? "?" : String(value.value)) ?? ["…"];
  return { name, type: `${(TensorProto_DataType[elemType] ?? "?").toLowerCase()}[${dims.join(", ")}]` };
}

/** The summary as text. */
export function renderOnnx(path: string, summary: OnnxSummary): string {
  const opsets = Object.entries(summary.opsets).map(([domain, version]) => `${domain || "onnx"} ${version}`).join(", ");
  const { count, external, embeddedBytes } = summary.initializers;
  const list = (values: OnnxSummary["inputs"]): string[] => [
    ...values.slice(0, LISTED).map(({ name, type }) => `${name}: ${type}`),
    ...(values.length > LISTED ? [`… and ${values.length - LISTED} more`] : []),
  ];
  const lines = (title: string, values: readonly string[]): [string, string][] =>
    values.map((value, index) => [index === 0 ? title : "", value]);
  return [
    renderPairs([
      ["graph", `${path} (${formatBytes(summary.modelBytes)})`],
      ["producer", summary.producer || "not said"],
      ["operator sets", opsets],
      ...Object.entries(summary.metadata),
      ["weights", `${count} tensors: ${external} external, ${formatBytes(embeddedBytes)} embedded`],
      ...lines(
        "external data",
        Object.entries(summary.externalData).map(([file, size]) => `${file} (${formatBytes(size)})`),
      ),
      ...lines("functions", summary.functions.map(({ name, nodes }) => `${name} (${nodes} nodes)`)),
      ...lines("inputs", list(summary.inputs)),
      ...lines("outputs", list(summary.outputs)),
    ]),
    renderTable(
      [{ title: "operator" }, { title: "nodes", align: "right" }],
      Object.entries(summary.operators).map(([name, nodes]) => [name, String(nodes)]),
    ),
  ].join("\n\n");
}
