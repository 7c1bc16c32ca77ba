/**
 * The graph builder's vocabulary: values with types and shapes, nodes, and where big initializers come from.
 *
 * @module
 */
import type { DType, TensorData } from "../../kernels/runtime/types.ts";
import type { OperatorFunction } from "../../kernels/functions/types.ts";

/** A dimension: a number, or a name for one that is known when the graph runs. */
export type Dim = number | string;

/** An edge of a graph under construction. Immutable; belongs to one graph. */
export interface Value {
  /** Unique in its graph; ONNX's name of the edge. */
  readonly name: string;
  readonly dtype: DType;
  /** Outermost first; `[]` is a scalar. */
  readonly shape: readonly Dim[];
}

/** Attribute of a node; numbers are written as INT when `Number.isInteger` and as FLOAT otherwise: use {@linkcode AttributeFloat} for a whole-number float. */
export type Attribute =
  | number
  | bigint
  | string
  | readonly number[]
  | readonly string[]
  | AttributeFloat
  | AttributeFloats
  | AttributeTensor
  | AttributeGraph
  | AttributeReference;
/** A float attribute whose value may be whole. */
export interface AttributeFloat {
  readonly float: number;
}
/** A list of floats; a plain list of numbers is written as INTS. */
export interface AttributeFloats {
  readonly floats: readonly number[];
}
/** A subgraph, for If, Loop and Scan; made by `createGraph(name, { outer })`. */
export interface AttributeGraph {
  readonly graph: Graph;
}
/** In the body of a function: the value of the function's own attribute. */
export interface AttributeReference {
  readonly reference: string;
  readonly type: "int" | "ints" | "float" | "floats" | "string" | "tensor";
}
/** A tensor attribute. */
export interface AttributeTensor {
  readonly tensor: { readonly dtype: DType; readonly shape: readonly number[]; readonly data: TensorData };
}

/** A node as differentiation and export see it. */
export interface Node {
  readonly type: string;
  /** `""` is ONNX's own domain. */
  readonly domain: string;
  readonly name: string;
  /** `undefined` marks an absent optional input. */
  readonly inputs: readonly (Value | undefined)[];
  readonly outputs: readonly Value[];
  readonly attributes: Readonly<Record<string, Attribute>>;
}

/** An initializer whose bytes come later, as a stream, into an external-data file. */
export interface ExternalSource {
  readonly byteLength: number;
  /** Little-endian elements in row-major order, in chunks; called once, when the file is written. A chunk may be reused once the next is asked for. */
  chunks(): AsyncIterable<Uint8Array>;
}

/** A model-local function, built as a graph: the body of an operator in ONNX's own operators. */
export interface FunctionDefinition {
  readonly domain: string;
  readonly name: string;
  /** Names of its attributes, all required. */
  readonly attributes: readonly string[];
  /** The body; its graph inputs and outputs are the function's, its constants become Constant nodes. Shapes are for inference only. */
  readonly body: Graph;
}

/** A graph under construction. Operators are functions in `ops.ts`; this is the core that they stand on. */
export interface Graph {
  readonly name: string;
  readonly nodes: readonly Node[];
  readonly graphInputs: readonly Value[];
  readonly graphOutputs: readonly Value[];
  /** Values of constants and small initializers by name, for folding and for the interpreter in tests. */
  readonly constants: ReadonlyMap<string, { readonly value: Value; readonly data: TensorData }>;
  /** Initializers whose bytes come later, by name. */
  readonly externals: ReadonlyMap<string, { readonly value: Value; readonly source: ExternalSource }>;
  /** Version of ONNX's own operator set. */
  readonly opset: number;
  /** Versions of the other operator sets in use, by domain. */
  readonly imports: ReadonlyMap<string, number>;
  /** Model-local functions that travel with the graph. */
  readonly functions: readonly (FunctionDefinition | OperatorFunction)[];
  /** Adds a model-local function; adding the same domain and name again changes nothing. Imports its domain at version 1 unless imported. */
  function(definition: FunctionDefinition | OperatorFunction): void;
  /** Entries of a 1-D int64 value as far as they are known when the graph is built: constants, and what Shape, Concat, Slice and Gather make of shapes. */
  integers(value: Value): readonly Dim[] | undefined;
  /** Adds a graph input. */
  input(name: string, dtype: DType, shape: readonly Dim[]): Value;
  /** An embedded initializer; equal scalars and small vectors are stored once. */
  constant(data: number | TensorData, shape?: readonly number[], dtype?: DType): Value;
  /** A named initializer, embedded (`data`) or external (`source`). */
  initializer(name: string, dtype: DType, shape: readonly number[], source: TensorData | ExternalSource): Value;
  /** Adds a node; output types and shapes are inferred for the operators in `infer.ts`, or given. */
  node(
    type: string,
    inputs: readonly (Value | undefined)[],
    attributes?: Readonly<Record<string, Attribute>>,
    options?: {
      readonly domain?: string;
      readonly name?: string;
      readonly outputs?: readonly { readonly dtype: DType; readonly shape: readonly Dim[] }[];
    },
  ): readonly Value[];
  /** Marks `value` as a graph output called `name` (an Identity is added where the name differs). */
  output(name: string, value: Value): Value;
  /** Runs `body` with `prefix/` before the names of the nodes it adds. */
  scope<T>(prefix: string, body: () => T): T;
}
