/**
 * Inside the worker: serves the stages of one plugin to the program.
 *
 * @module
 */
import * as v from "valibot";
import { describeIssues } from "../recipe/parse.ts";
import { type AnyStage, exportedStages } from "../recipe/exported_stages.ts";
import type { LayerShape, StageContext } from "../stream/stage.ts";
import { createHandles } from "./handles.ts";
import { createPeer, type Port } from "./peer.ts";
import { remoteRuntime, type RuntimeInfo } from "./remote_runtime.ts";
import { answerInto, answerMemory, waitForAnswer } from "./sync.ts";
import { receiveInput, type SandboxKind } from "./stage_input.ts";

/** A stage as it is described to the program: everything but its functions. */
export interface StageInfo {
  readonly kind: AnyStage["kind"];
  readonly scope: AnyStage["scope"];
  readonly name: string;
  readonly version: string;
  readonly description: string;
  readonly filter?: AnyStage["filter"];
  readonly wantsInputMoment?: boolean;
  readonly choosesCandidates?: boolean;
  /** Whether it says what layers will be stored as. */
  readonly stores: boolean;
  /** Names of its options. */
  readonly fields: readonly string[];
}

/** A question that is answered at once, into shared memory. */
export interface SyncRequest {
  readonly stage: number;
  readonly what: "options" | "estimate" | "stores";
  readonly value: unknown;
  readonly options?: unknown;
  readonly memory: SharedArrayBuffer;
}

/** Longest wait for what the program answers at once; it may be asking another plugin just then. */
const PROGRAM_LIMIT_MS = 60_000;
/** Room for an answer of the program: a number or a message. */
const PROGRAM_BYTES = 1 << 16;

type LoosePart = { readonly [key: string]: unknown };

function answer(stage: AnyStage, request: SyncRequest): unknown {
  const { options: schema } = stage;
  const layer = request.value as LayerShape & { readonly rank: number };
  if (request.what === "estimate") return stage.estimate(layer, request.options as never);
  if (request.what === "stores") return stage.stores!(layer, request.options as never);
  const parsed = v.safeParse(schema, request.value);
  return parsed.success ? { output: parsed.output } : { issues: describeIssues(parsed.issues) };
}

/**
 * Serves a plugin's module.
 *
 * @param module The plugin's exports.
 * @param specifier As the user wrote it, for errors.
 * @param port The worker's own scope.
 */
export function serve(module: LoosePart, specifier: string, port: Port): void {
  const stages = exportedStages(module, specifier);
  const stops = new Map<number, AbortController>();
  const handles = createHandles("plugin", () => peer);
  let runtime: ReturnType<typeof remoteRuntime> | undefined;
  const peer = createPeer(port, {
    ...handles.handlers,
    describe: () =>
      stages.map(
        ({ options, stores, ...stage }): StageInfo => {
          const { kind, scope, name, version, description, filter, wantsInputMoment, choosesCandidates } = stage;
          const { entries = {} } = options as { readonly entries?: LoosePart };
          const plain = { kind, scope, name, version, description, filter, wantsInputMoment, choosesCandidates };
          return { ...plain, stores: stores !== undefined, fields: Object.keys(entries) };
        },
      ),
    sync: (request: SyncRequest) => answerInto(request.memory, () => answer(stages[request.stage], request)),
    run: async (call: number, stage: number, parts: LoosePart, options: LoosePart, info: RuntimeInfo) => {
      const stop = new AbortController();
      stops.set(call, stop);
      runtime ??= remoteRuntime(peer, info);
      const context: StageContext = {
        runtime,
        signal: stop.signal,
        scratch: "",
        emit: (event) => peer.post("emit", event),
      };
      const { kind } = stages[stage];
      const input = receiveInput({ ...parts }, kind as SandboxKind, {
        handles,
        runtime,
        ask: (method, ...args) => peer.call("ask", call, method, ...args),
        askNow(method, ...args) {
          const memory = answerMemory(PROGRAM_BYTES);
          peer.post("askNow", call, method, args, memory);
          return waitForAnswer(memory, PROGRAM_LIMIT_MS, `the program's ${method}`);
        },
      });
      try {
        return await stages[stage].run(input as never, options as never, context);
      } finally {
        stops.delete(call);
      }
    },
    abort: (call: number) => stops.get(call)?.abort(new DOMException("interrupted", "AbortError")),
  });
  peer.post("ready");
}
