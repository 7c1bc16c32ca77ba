/**
 * Loaded graphs, shared by layers of one shape.
 *
 * @module
 */
import type { Runtime, Session, SessionOptions, Tensor } from "../../../kernels/runtime/types.ts";
import type { Graph } from "../../../pipeline/graph/types.ts";
import { encodeModel } from "../../../pipeline/graph/encode.ts";

/** Sessions kept per runtime: a model of equal blocks has few distinct layer shapes. */
const MOST_KEPT = 64;
/** Graphs of a shape, at least. */
const GRAPHS_OF_SHAPE = 7;
/** Shapes, with their middle dimensions, that have sessions at once. */
export const MOST_KEPT_SHAPES = Math.ceil(MOST_KEPT / GRAPHS_OF_SHAPE);
/** Layers above this many elements free their sessions, whose arenas would hold gigabytes between layers. */
export const MOST_KEPT_ELEMENTS = 2 ** 21;

/** Above this many elements the two halves' sessions do not live at once: a load takes less than a tenth of a half step. */
export const LEAN_ELEMENTS = 2 ** 25;

/** The same on a GPU, where a half step is faster than a load: what both sessions keep is then some 9 GB of its memory. */
export const GPU_LEAN_ELEMENTS = 2 ** 26;

/** Sessions of a runtime that outlive their layer, and how many layers of either sort are at work. */
interface Kept {
  readonly sessions: Map<string, Promise<Session>>;
  sharing: number;
  alone: number;
}

const pools = new WeakMap<Runtime, Kept>();

/** A large layer reckons with all memory: what small ones keep for each other is given back before it, or when they end. */
async function makeRoom({ sessions, sharing, alone }: Kept): Promise<void> {
  if (sharing === 0 && alone > 0) await endAll(sessions);
}

/** Ends the sessions that layers of a runtime share, where none is at work: what they keep is needed for something else. */
export async function endSharedSessions(runtime: Runtime): Promise<void> {
  const kept = pools.get(runtime);
  if (kept !== undefined && kept.sharing === 0) await endAll(kept.sessions);
}

async function endAll(sessions: Map<string, Promise<Session>>): Promise<void> {
  const loading = [...sessions.values()];
  sessions.clear();
  const ended = await Promise.allSettled(loading);
  for (const each of ended) if (each.status === "fulfilled") await each.value[Symbol.asyncDispose]();
}

/** Loads graphs on demand; disposing ends those that are not shared. */
export interface SessionPool extends AsyncDisposable {
  /** The session of the graph that `build` makes; `key` names it among graphs of the same pool. */
  get(key: string, build: () => Graph, options?: SessionOptions): Promise<Session>;
  /**
   * Runs the graph once. Outputs get memory of their own (`into`'s tensors where given, and those are used up), as one that
   * stays alive would otherwise hold the whole arena of its session.
   */
  run(
    key: string,
    build: () => Graph,
    feeds: Readonly<Record<string, Tensor>>,
    into?: Readonly<Record<string, Tensor>>,
    options?: SessionOptions,
  ): Promise<Record<string, Tensor>>;
  /** Ends the sessions that are not shared, with the memory that they keep for their next run. */
  clear(): Promise<void>;
}

/**
 * A pool for one layer.
 *
 * @param prefix Distinguishes shapes and settings, e.g. `"4096x4096k2048"`.
 * @param defaults Options of all its sessions.
 * @param shared Whether sessions outlive the layer, for others of the same prefix.
 */
export function openPool(
  runtime: Runtime,
  prefix: string,
  shared: boolean,
  defaults: SessionOptions = {},
): SessionPool {
  const kept = pools.get(runtime) ?? { sessions: new Map<string, Promise<Session>>(), sharing: 0, alone: 0 };
  pools.set(runtime, kept);
  const own = new Map<string, Promise<Session>>();
  const sessions = shared ? kept.sessions : own;
  const clear = () => endAll(own);
  const count = (change: number) => {
    if (shared) kept.sharing += change;
    else kept.alone += change;
    return makeRoom(kept);
  };
  const room = count(1);
  const pool: SessionPool = {
    async get(key, build, options = {}) {
      await room;
      const full = `${prefix}/${key}`;
      let session = sessions.get(full);
      if (session === undefined) {
        session = runtime.load(encodeModel(build()), { name: full, ...defaults, ...options });
        session.catch(() => sessions.delete(full));
      } else sessions.delete(full);
      sessions.set(full, session);
      while (sessions.size > MOST_KEPT) {
        const [oldest, evicted] = sessions.entries().next().value!;
        sessions.delete(oldest);
        evicted.then((each) => each[Symbol.asyncDispose](), () => {});
      }
      return session;
    },
    async run(key, build, feeds, into = {}, options = {}) {
      const session = await pool.get(key, build, options);
      if (runtime.binding !== "c-api") return session.run(feeds);
      const targets: Record<string, Tensor> = { ...into };
      try {
        for (const { name, dtype, shape } of session.outputs) {
          targets[name] ??= runtime.empty(dtype, shape as readonly number[]);
        }
        return await session.run(feeds, { into: targets });
      } catch (error) {
        for (const each of Object.values(targets)) each[Symbol.dispose]();
        throw error;
      }
    },
    clear,
    async [Symbol.asyncDispose]() {
      await clear();
      await count(-1);
    },
  };
  return pool;
}
