/**
 * The runtime that a sandboxed plugin sees: tensors and sessions live in the program, and calls go there.
 *
 * @module
 */
import type { Runtime, Session, Tensor } from "../../kernels/runtime/types.ts";
import type { Peer } from "./peer.ts";
import { ELEMENT_BYTES } from "../graph/dtype.ts";
import type { SandboxSessionOptions, TensorInfo } from "./runtime_host.ts";

/** What is told of the program's runtime. */
export type RuntimeInfo = Pick<Runtime, "provider" | "binding" | "version" | "nativeKernels" | "deviceMemory">;

/** The runtime, and what inputs need that hold tensors. */
export interface RemoteRuntime extends Runtime {
  /** A tensor of the program's. */
  receive(info: TensorInfo): Tensor;
  /** Id of a tensor of this runtime. */
  idOf(tensor: Tensor): number;
}

/** Makes the runtime. Its tensors' ids are ≥ 0; the program chooses negative ones for outputs. */
export function remoteRuntime(peer: Peer, info: RuntimeInfo): RemoteRuntime {
  const ids = new WeakMap<Tensor, number>();
  let next = 0;
  const idOf = (tensor: Tensor): number => {
    const id = ids.get(tensor);
    if (id === undefined) throw new TypeError("Cannot feed this tensor: it was not made by this run's runtime");
    return id;
  };
  const idsOf = (tensors: Readonly<Record<string, Tensor>>) =>
    Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, idOf(tensor)]));
  const wrap = ({ id, dtype, shape, byteLength }: TensorInfo): Tensor => {
    const tensor: Tensor = {
      dtype,
      shape,
      byteLength,
      device: info.provider,
      read: async () => await peer.call("tensor.read", id) as Awaited<ReturnType<Tensor["read"]>>,
      [Symbol.dispose]: () => peer.post("tensor.dispose", id),
    };
    ids.set(tensor, id);
    return tensor;
  };
  const elementsOf = (shape: readonly number[]) => shape.reduce((product, side) => product * side, 1);

  return {
    ...info,
    receive: wrap,
    idOf,
    tensor(dtype, data, shape) {
      const elements = elementsOf(shape);
      if (data.length !== elements) {
        throw new RangeError(`Cannot make a tensor [${shape}] of ${data.length} elements: it has ${elements}`);
      }
      peer.post("tensor.make", next, dtype, data, shape);
      return wrap({ id: next++, dtype, shape, byteLength: elements * ELEMENT_BYTES[dtype] });
    },
    empty(dtype, shape) {
      peer.post("tensor.empty", next, dtype, shape);
      return wrap({ id: next++, dtype, shape, byteLength: elementsOf(shape) * ELEMENT_BYTES[dtype] });
    },
    async load(model, options = {}) {
      if (typeof model === "string") {
        throw new TypeError(`Cannot load "${model}" in the plugin sandbox, which has no files: give the graph's bytes`);
      }
      const { name, threads, tf32, optimization, accuracy } = options;
      const chosen: SandboxSessionOptions = { name, threads, tf32, optimization, accuracy };
      const { id, ...loaded } = await peer.call("session.load", model, chosen) as
        & { readonly id: number }
        & Pick<Session, "inputs" | "outputs" | "provider">;
      return {
        ...loaded,
        async run(feeds, { outputs, into, signal } = {}) {
          signal?.throwIfAborted();
          const found = await peer.call("session.run", id, idsOf(feeds), {
            outputs,
            into: into === undefined ? undefined : idsOf(into),
          }) as Record<string, TensorInfo>;
          return Object.fromEntries(
            Object.entries(found).map(([name, tensor]) => [name, into?.[name] ?? wrap(tensor)]),
          );
        },
        [Symbol.asyncDispose]: async () => void await peer.call("session.close", id),
      };
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
