/**
 * Loaded graphs, shared by layers of one shape.
 *
 * @module
 */
import type { Runtime, Session, SessionOptions, Tensor } from "../../../kernels/runtime/types.ts";
import type { Graph } from "../../../pipeline/graph/types.ts";
import { encodeModel } from "../../../pipeline/graph/encode.ts";

/** Sessions kept per runtime: a model has few distinct layer shapes, seven or eight graphs each. */
const MOST_KEPT = 64;
/** Layers above this many elements free their sessions, whose arenas would hold gigabytes between layers. */
export const MOST_KEPT_ELEMENTS = 2 ** 21;

/** Above this many elements the two halves' sessions do not live at once: a load takes less than a tenth of a half step. */
export const LEAN_ELEMENTS = 2 ** 25;

const pools = new WeakMap<Runtime, Map<string, Promise<Session>>>();

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
  const kept = pools.get(runtime) ?? new Map<string, Promise<Session>>();
  pools.set(runtime, kept);
  const own = new Map<string, Promise<Session>>();
  const sessions = shared ? kept : own;
  const clear = async () => {
    const ended = await Promise.allSettled(own.values());
    own.clear();
    for (const each of ended) if (each.status === "fulfilled") await each.value[Symbol.asyncDispose]();
  };
  const pool: SessionPool = {
    get(key, build, options = {}) {
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
    [Symbol.asyncDispose]: clear,
  };
  return pool;
}
