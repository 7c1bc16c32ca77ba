/**
 * The program's side of a sandboxed plugin's runtime: its graphs run here, on tensors that stay here.
 *
 * @module
 */
import { decodeModel } from "../graph/decode.ts";
import { TensorProto_DataLocation } from "../graph/onnx_pb.ts";
import type { DType, Runtime, Session, SessionOptions, Tensor, TensorData } from "../../kernels/runtime/types.ts";
import type { Handlers } from "./peer.ts";

/** A tensor as the plugin's side sees it. */
export interface TensorInfo {
  readonly id: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly byteLength: number;
}

/** Options of a session that a sandboxed plugin may choose; others name files or change what the program registers. */
export type SandboxSessionOptions = Pick<SessionOptions, "name" | "threads" | "tf32" | "optimization" | "accuracy">;

/**
 * Makes sure that a graph brings its weights along: external data would let a plugin read files through ONNX Runtime.
 *
 * @throws {TypeError} when a tensor names a file, or the model has parts that dbf does not know.
 */
export function refuseExternalData(bytes: Uint8Array): void {
  const visit = (value: unknown): void => {
    if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return;
    if (Array.isArray(value)) return value.forEach(visit);
    const { $unknown: unknown, dataLocation, externalData, ...fields } = value as Record<string, unknown>;
    if (Array.isArray(unknown) && unknown.length > 0) {
      throw new TypeError("Cannot run this plugin's graph in the sandbox as it has parts that dbf does not know");
    }
    if (
      dataLocation === TensorProto_DataLocation.EXTERNAL || (Array.isArray(externalData) && externalData.length > 0)
    ) {
      throw new TypeError("Cannot run this plugin's graph in the sandbox as a tensor is in a file: embed the weights");
    }
    Object.values(fields).forEach(visit);
  };
  visit(decodeModel(bytes));
}

/** What serves a runtime. */
export interface RuntimeHost extends AsyncDisposable {
  readonly handlers: Handlers;
  /** Lends a tensor of the program's for as long as the return value is not disposed. */
  lend(tensor: Tensor): Disposable & { readonly info: TensorInfo };
  /** The tensor that the other side names. */
  find(id: number): Tensor;
}

/** Serves `runtime` to the other side; disposing releases what it left. */
export function hostRuntime(runtime: () => Runtime): RuntimeHost {
  const tensors = new Map<number, Tensor>();
  const sessions = new Map<number, Session>();
  /** Why a tensor could not be made; told when it is used. */
  const failed = new Map<number, Error>();
  let next = 0;
  const find = (id: number): Tensor => {
    const tensor = tensors.get(id);
    if (tensor === undefined) throw failed.get(id) ?? new Error("Cannot use this tensor: it was disposed");
    return tensor;
  };
  const make = (id: number, body: () => Tensor) => {
    try {
      tensors.set(id, body());
    } catch (error) {
      failed.set(id, error as Error);
    }
  };
  const findAll = (ids: Readonly<Record<string, number>>) =>
    Object.fromEntries(Object.entries(ids).map(([name, id]) => [name, find(id)]));

  const lent = new Set<number>();
  return {
    find,
    lend(tensor) {
      const id = -1 - next++;
      tensors.set(id, tensor);
      lent.add(id);
      const { dtype, shape, byteLength } = tensor;
      return {
        info: { id, dtype, shape, byteLength },
        [Symbol.dispose]() {
          tensors.delete(id);
          lent.delete(id);
        },
      };
    },
    handlers: {
      "tensor.make": (id: number, dtype: DType, data: TensorData, shape: readonly number[]) =>
        make(id, () => runtime().tensor(dtype, data, shape)),
      "tensor.empty": (id: number, dtype: DType, shape: readonly number[]) =>
        make(id, () => runtime().empty(dtype, shape)),
      "tensor.read": (id: number) => find(id).read(),
      "tensor.dispose": (id: number) => {
        // What was lent stays the program's.
        if (lent.has(id)) return;
        tensors.get(id)?.[Symbol.dispose]();
        tensors.delete(id);
        failed.delete(id);
      },
      "session.load": async (model: Uint8Array, options: SandboxSessionOptions) => {
        refuseExternalData(model);
        const { name, threads, tf32, optimization, accuracy } = options;
        const session = await runtime().load(model, { name, threads, tf32, optimization, accuracy });
        sessions.set(next, session);
        const { inputs, outputs, provider } = session;
        return { id: next++, inputs, outputs, provider };
      },
      "session.run": async (
        id: number,
        feeds: Readonly<Record<string, number>>,
        options: { readonly outputs?: readonly string[]; readonly into?: Readonly<Record<string, number>> },
      ) => {
        const session = sessions.get(id);
        if (session === undefined) throw new Error("Cannot run this session: it was closed");
        const into = options.into === undefined ? undefined : findAll(options.into);
        const given = new Map(
          Object.entries(options.into ?? {}).map(([name, tensor]) => [find(tensor), [name, tensor]]),
        );
        const found = await session.run(findAll(feeds), { outputs: options.outputs, into });
        return Object.fromEntries(
          Object.entries(found).map(([name, tensor]): [string, TensorInfo] => {
            // The plugin's own ids are ≥ 0, those of outputs below.
            const [, known] = given.get(tensor) ?? [];
            const key = typeof known === "number" ? known : -1 - next++;
            tensors.set(key, tensor);
            const { dtype, shape, byteLength } = tensor;
            return [name, { id: key, dtype, shape, byteLength }];
          }),
        );
      },
      "session.close": async (id: number) => {
        await sessions.get(id)?.[Symbol.asyncDispose]();
        sessions.delete(id);
      },
    },
    async [Symbol.asyncDispose]() {
      for (const [id, tensor] of tensors) if (!lent.has(id)) tensor[Symbol.dispose]();
      for (const session of sessions.values()) await session[Symbol.asyncDispose]();
      tensors.clear();
      sessions.clear();
    },
  };
}
