/**
 * Sessions of block graphs and the weights of one block at a time.
 *
 * @module
 */
import type { Runtime, Session, Tensor } from "../../kernels/runtime/types.ts";
import type { CheckpointReader } from "../checkpoint/types.ts";
import { encodeModel } from "../graph/encode.ts";
import type { BlockDescription, ModelDescription } from "../model/types.ts";
import { moveToTensor } from "./move_array.ts";
import { blockGraphKey, type BlockGraphOptions, buildBlockGraph } from "./block_graph.ts";

/** Feeds of a session, to be disposed by whoever made them. */
export type Feeds = Record<string, Tensor>;

/** What runs the blocks of one model. */
export interface BlockEngine extends AsyncDisposable {
  readonly runtime: Runtime;
  readonly model: ModelDescription;
  readonly checkpoint: CheckpointReader;
  /** The session of a block graph; blocks of one structure share it. */
  session(block: BlockDescription, options: BlockGraphOptions): Promise<Session>;
  /** Releases a session and the memory that its runs left in its arena; asked for again, it is made anew (some 50 ms). */
  drop(block: BlockDescription, options: BlockGraphOptions): Promise<void>;
  /** Norm weights and biases of a block, `norm/PLACE` and `bias/ROLE`. */
  vectors(block: BlockDescription): Promise<Feeds>;
  /** Dense weights of a block as in the checkpoint, `weight/ROLE`; all linears unless `roles` names some. */
  weights(block: BlockDescription, roles?: readonly string[]): Promise<Feeds>;
}

/** Opens an engine; sessions are made when first asked for and released with it. */
export function openBlockEngine(
  runtime: Runtime,
  model: ModelDescription,
  checkpoint: CheckpointReader,
): BlockEngine {
  const sessions = new Map<string, Promise<Session>>();
  const feed = async (name: string) => {
    const handle = checkpoint.tensor(name);
    return moveToTensor(runtime, await handle.read(), handle.shape);
  };
  return {
    runtime,
    model,
    checkpoint,
    session(block, options) {
      const key = blockGraphKey(block, options);
      let session = sessions.get(key);
      if (session === undefined) {
        const bytes = encodeModel(buildBlockGraph(model, block, options));
        session = runtime.load(bytes, {
          name: `${options.kind} of block ${block.index}`,
          memoryPattern: runtime.provider !== "cpu",
        });
        sessions.set(key, session);
      }
      return session;
    },
    async drop(block, options) {
      const key = blockGraphKey(block, options);
      const session = sessions.get(key);
      sessions.delete(key);
      await (await session)?.[Symbol.asyncDispose]();
    },
    async vectors(block) {
      const feeds: Feeds = {};
      for (const [place, name] of Object.entries(block.norms)) feeds[`norm/${place}`] = await feed(name as string);
      for (const { role, bias } of block.linears) if (bias !== undefined) feeds[`bias/${role}`] = await feed(bias);
      return feeds;
    },
    async weights(block, roles) {
      const feeds: Feeds = {};
      for (const { role, weight } of block.linears) {
        if (roles === undefined || roles.includes(role)) feeds[`weight/${role}`] = await feed(weight);
      }
      return feeds;
    },
    async [Symbol.asyncDispose]() {
      for (const session of sessions.values()) await (await session)[Symbol.asyncDispose]();
      sessions.clear();
    },
  };
}

/** Disposes tensors. */
export function disposeFeeds(feeds: Readonly<Record<string, Tensor | undefined>>): void {
  for (const tensor of Object.values(feeds)) tensor?.[Symbol.dispose]();
}

/**
 * Tensors for all outputs of a session with fixed shapes, for `RunOptions.into`: an output in the session's arena would hold
 * the memory around it.
 */
export function emptyOutputs(runtime: Runtime, { outputs }: Session): Feeds {
  return Object.fromEntries(
    outputs.map(({ name, dtype, shape }) => [name, runtime.empty(dtype, shape as readonly number[])]),
  );
}

/** The feeds that a session has inputs for. */
export function feedsFor(session: Session, ...sources: readonly Readonly<Feeds>[]): Feeds {
  const names = new Set(session.inputs.map(({ name }) => name));
  const feeds: Feeds = {};
  for (const source of sources) {
    for (const [name, tensor] of Object.entries(source)) if (names.has(name)) feeds[name] = tensor;
  }
  return feeds;
}

/** Reads a scalar. */
export async function readScalar(scalar: Tensor): Promise<number> {
  return (await scalar.read() as Float32Array)[0];
}

/** Reads an f32 output and disposes it. */
export async function readFloats(tensor: Tensor): Promise<Float32Array> {
  using floats = tensor;
  return await floats.read() as Float32Array;
}
