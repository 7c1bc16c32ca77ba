/**
 * Plugins in a worker without permissions: no files, no network, no environment, no native code, no processes. What a stage
 * needs of the program (weights, graphs, progress) it asks for by messages.
 *
 * @module
 */
import * as v from "valibot";
import type { Runtime } from "../../kernels/runtime/types.ts";
import { type AnyStage, checkStage } from "../recipe/exported_stages.ts";
import type { DbfEvent } from "../stream/events.ts";
import type { LayerShape, LayerStorage, OptionsSchema, StageContext, StageEstimate, StageIO } from "../stream/stage.ts";
import { createHandles } from "./handles.ts";
import { createPeer, type Handlers, type Peer, type Port } from "./peer.ts";
import { hostRuntime } from "./runtime_host.ts";
import type { StageInfo, SyncRequest } from "./serve.ts";
import { answerInto, answerMemory, waitForAnswer } from "./sync.ts";
import { type SandboxKind, sendInput } from "./stage_input.ts";

/** How long a plugin may take to load, to parse its options, and to estimate: all are meant to be cheap. */
const LOAD_LIMIT_MS = 60_000;
const SYNC_LIMIT_MS = 10_000;
/** Room for parsed options or an estimate as JSON. */
const SYNC_BYTES = 1 << 20;

/** A plugin in its worker. */
export interface Sandbox extends Disposable {
  readonly stages: readonly AnyStage[];
  /** Ends the worker; whatever waits for it fails with `reason`. */
  stop(reason: Error): void;
}

/** A worker with a plugin that has loaded. */
interface Box {
  readonly worker: Worker;
  readonly peer: Peer;
}

/** Starts a worker and waits until the plugin in it has loaded. */
async function start(
  target: string,
  specifier: string,
  handlers: (peer: () => Peer) => Record<string, unknown>,
): Promise<Box> {
  const serve = new URL("./serve.ts", import.meta.url).href;
  // Static imports are read with the program's permissions; what they then do, with the worker's, which are none.
  const source = `import * as plugin from ${JSON.stringify(target)};
import { serve } from ${JSON.stringify(serve)};
serve(plugin, ${JSON.stringify(specifier)}, self);`;
  const url = `data:text/javascript,${encodeURIComponent(source)}`;
  const worker = new Worker(url, { type: "module", deno: { permissions: "none" } } as WorkerOptions);
  const { promise: ready, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(() => reject(new Error(`it did not load in ${LOAD_LIMIT_MS / 1000} s`)), LOAD_LIMIT_MS);
  const peer: Peer = createPeer(worker as Port, { ...handlers(() => peer), ready: () => resolve() } as never);
  worker.onerror = (event) => {
    event.preventDefault();
    const message = event.message.replace(/^Uncaught (\(in promise\) )?/, "");
    const error = /^TypeError: /.test(message) ? new TypeError(message.slice(11)) : new Error(message);
    reject(error);
    peer.close(error);
  };
  try {
    await ready;
    return { worker, peer };
  } catch (error) {
    worker.terminate();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Loads a plugin into workers: one runs its stages, another answers what must be known at once (options, estimates) while
 * the first computes. Needs Deno's `worker-options`, which deno.json turns on.
 *
 * @param target URL of the module.
 * @param specifier As the user wrote it, for errors.
 * @throws {TypeError} when it exports no stage, one that is not well-formed, or a target, which must write files.
 * @throws {Error} when it cannot be loaded.
 */
export async function openSandbox(target: string, specifier: string): Promise<Sandbox> {
  let current: StageContext | undefined;
  const runtimeNow = (): Runtime => {
    if (current === undefined) throw new Error("Cannot use the runtime before a stage runs");
    return current.runtime;
  };
  const host = hostRuntime(runtimeNow);
  const asks = new Map<number, Handlers>();
  const answer = (call: number, method: string, args: unknown[]): unknown => {
    const handlers = asks.get(call) ?? {};
    if (!Object.hasOwn(handlers, method)) throw new TypeError(`Cannot answer "${method}": there is no such question`);
    return handlers[method](...args as never[]);
  };
  let handles: ReturnType<typeof createHandles>;
  const box = await start(target, specifier, (peer) => {
    handles = createHandles("program", peer);
    return {
      ...handles.handlers,
      ...host.handlers,
      ask: (call: number, method: string, ...args: unknown[]) => answer(call, method, args),
      askNow: (call: number, method: string, args: unknown[], memory: SharedArrayBuffer) =>
        answerInto(memory, () => answer(call, method, args)),
      emit: (event: DbfEvent) => {
        if (event?.type === "stage-progress" || event?.type === "notice") current?.emit(event);
      },
    };
  });
  let side: Box;
  let infos: readonly StageInfo[];
  try {
    side = await start(target, specifier, () => ({}));
    infos = await box.peer.call("describe") as readonly StageInfo[];
  } catch (error) {
    box.worker.terminate();
    throw error;
  }
  const end = (reason: Error) => {
    for (const { worker, peer } of [box, side]) {
      peer.close(reason);
      worker.terminate();
    }
    void host[Symbol.asyncDispose]();
  };

  /** Asks the side worker and holds this thread until it has answered. */
  const ask = (request: Omit<SyncRequest, "memory">, name: string): unknown => {
    const memory = answerMemory(SYNC_BYTES);
    side.peer.post("sync", { ...request, memory } satisfies SyncRequest);
    return waitForAnswer(memory, SYNC_LIMIT_MS, `the plugin's "${name}" (${request.what})`);
  };
  let calls = 0;

  const proxy = ({ fields, stores, ...info }: StageInfo, stage: number): AnyStage => {
    if (info.kind === "target") {
      throw new TypeError(
        `Cannot run target "${info.name}" of ${specifier} in the plugin sandbox as a target writes files: load it without`,
      );
    }
    const estimates = new Map<string, StageEstimate>();
    const made = {
      ...info,
      options: sandboxedOptions(fields, (value) => ask({ stage, what: "options", value }, info.name)),
      estimate(layer: LayerShape & { readonly rank: number }, options: unknown): StageEstimate {
        const key = JSON.stringify([layer, options]);
        let found = estimates.get(key);
        if (found === undefined) {
          found = ask({ stage, what: "estimate", value: layer, options }, info.name) as StageEstimate;
          if (!(found?.peakBytes >= 0)) {
            throw new TypeError(`Cannot use the plugin's "${info.name}": its estimate must have peakBytes ≥ 0`);
          }
          estimates.set(key, found);
        }
        return found;
      },
      ...(stores
        ? {
          stores: (layer: LayerShape & { readonly rank: number }, options: unknown) =>
            ask({ stage, what: "stores", value: layer, options }, info.name) as LayerStorage,
        }
        : {}),
      async run(input: StageIO[SandboxKind]["input"], options: unknown, context: StageContext): Promise<unknown> {
        context.signal.throwIfAborted();
        current = context;
        const call = calls++;
        using scope = handles.scope();
        using borrowed = new DisposableStack();
        const { parts, handlers } = sendInput(input, { handles, scope, host, borrowed });
        asks.set(call, handlers);
        const abort = () => box.peer.post("abort", call);
        context.signal.addEventListener("abort", abort, { once: true });
        const { provider, binding, version, nativeKernels, deviceMemory } = context.runtime;
        const facts = { provider, binding, version, nativeKernels, deviceMemory };
        try {
          return await box.peer.call("run", call, stage, parts, options, facts);
        } finally {
          context.signal.removeEventListener("abort", abort);
          asks.delete(call);
        }
      },
    };
    return checkStage(made, `"${info.name}" of ${specifier}`);
  };
  try {
    return {
      stages: infos.map(proxy),
      stop: end,
      [Symbol.dispose]: () => end(new Error(`Cannot use ${specifier} any more: its sandbox was closed`)),
    };
  } catch (error) {
    end(error as Error);
    throw error;
  }
}

/** A schema that has the plugin's own parse the options. */
function sandboxedOptions(
  fields: readonly string[],
  parse: (value: unknown) => unknown,
): OptionsSchema {
  const schema = v.pipe(
    v.unknown(),
    v.rawTransform(({ dataset, addIssue, NEVER }) => {
      const answer = parse(dataset.value) as { readonly output?: Record<string, unknown>; readonly issues?: string };
      if (answer.output !== undefined) return answer.output;
      addIssue({ message: answer.issues ?? "the plugin refused its options" });
      return NEVER;
    }),
  );
  // Names only: what a recipe's defaults (`effort`) look for.
  return Object.assign(schema, { entries: Object.fromEntries(fields.map((field) => [field, v.unknown()])) });
}
