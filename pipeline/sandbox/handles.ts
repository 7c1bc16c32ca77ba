/**
 * Weight handles across a worker's border: the one side keeps the handle, the other gets one that asks for rows.
 *
 * @module
 */
import type { CheckpointReader, TensorHandle, WeightDType } from "../checkpoint/types.ts";
import type { Handlers, Peer } from "./peer.ts";

/** A handle as it is sent. */
export interface HandleInfo {
  readonly id: number;
  /** The side that has the handle. */
  readonly side: "program" | "plugin";
  readonly name: string;
  readonly dtype: WeightDType;
  readonly shape: readonly number[];
  readonly file: string;
}

/** A checkpoint as it is sent. */
export type CheckpointInfo = Pick<CheckpointReader, "directory" | "config" | "generationConfig"> & {
  readonly tensors: readonly HandleInfo[];
};

/** Handles that are sent for the time of one call. */
export interface HandleScope extends Disposable {
  send(handle: TensorHandle): HandleInfo;
  sendCheckpoint(checkpoint: CheckpointReader): CheckpointInfo;
}

/** The handles of one side. */
export interface Handles {
  readonly handlers: Handlers;
  scope(): HandleScope;
  /** The handle behind what was received: the original where it came from here. */
  receive(info: HandleInfo): TensorHandle;
  receiveCheckpoint(info: CheckpointInfo): CheckpointReader;
}

/** Keeps the handles of `side`; `peer` is asked for the other side's. */
export function createHandles(side: HandleInfo["side"], peer: () => Peer): Handles {
  const mine = new Map<number, TensorHandle>();
  const sources = new Map<number, AsyncIterator<Uint8Array>>();
  const theirs = new WeakMap<TensorHandle, HandleInfo>();
  let next = 0;
  const find = (id: number): TensorHandle => {
    const handle = mine.get(id);
    if (handle === undefined) throw new Error("Cannot read this weight any more: the call that it was for has ended");
    return handle;
  };

  const receive = (info: HandleInfo): TensorHandle => {
    if (info.side === side) return find(info.id);
    const readRows = async (start: number, end: number, signal?: AbortSignal) => {
      signal?.throwIfAborted();
      return await peer().call("handle.rows", info.id, start, end) as Float32Array;
    };
    const handle: TensorHandle = {
      name: info.name,
      dtype: info.dtype,
      shape: info.shape,
      file: info.file,
      readRows,
      read: (signal) => readRows(0, info.shape[0] ?? 1, signal),
      async *bytes(chunkBytes) {
        const source = await peer().call("handle.open", info.id, chunkBytes) as number;
        for (;;) {
          const chunk = await peer().call("handle.next", source) as Uint8Array | undefined;
          if (chunk === undefined) return;
          yield chunk;
        }
      },
    };
    theirs.set(handle, info);
    return handle;
  };

  return {
    handlers: {
      "handle.rows": (id: number, start: number, end: number) => find(id).readRows(start, end),
      "handle.open": (id: number, chunkBytes?: number) => {
        sources.set(next, find(id).bytes(chunkBytes)[Symbol.asyncIterator]());
        return next++;
      },
      "handle.next": async (id: number) => {
        const { done, value } = await sources.get(id)!.next();
        if (done) sources.delete(id);
        return done ? undefined : value;
      },
    },
    scope() {
      const ids: number[] = [];
      const send = (handle: TensorHandle): HandleInfo => {
        const known = theirs.get(handle);
        if (known !== undefined) return known;
        const { name, dtype, shape, file } = handle;
        const id = next++;
        mine.set(id, handle);
        ids.push(id);
        return { id, side, name, dtype, shape, file };
      };
      return {
        send,
        sendCheckpoint: ({ directory, config, generationConfig, tensors }) => ({
          directory,
          config,
          generationConfig,
          tensors: [...tensors.values()].map(send),
        }),
        [Symbol.dispose]() {
          for (const id of ids) mine.delete(id);
        },
      };
    },
    receive,
    receiveCheckpoint({ tensors: infos, ...plain }) {
      const tensors = new Map(infos.map((info) => [info.name, receive(info)]));
      return {
        ...plain,
        tensors,
        companions: [],
        bytesRead: 0,
        tensor(name) {
          const handle = tensors.get(name);
          if (handle === undefined) throw new Error(`Cannot find tensor "${name}" in ${plain.directory}`);
          return handle;
        },
        [Symbol.dispose]() {},
      };
    },
  };
}
