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
import { receiveInput, type SandboxKind } from "./stage_input.ts";

/** A stage as it is described to the program: everything but its functions. */
export interface StageInfo {
  readonly kind: AnyStage["kind"];
  readonly scope: AnyStage["scope"];
  readonly name: string;
  readonly version: string;
  readonly description: string;
  readonly filter?: AnyStage["filter"];
  /** Names of its options. */
  readonly fields: readonly string[];
}

/** A question that is answered at once, into shared memory: a length, or minus one for an error, and JSON behind it. */
export interface SyncRequest {
  readonly stage: number;
  readonly what: "options" | "estimate";
  readonly value: unknown;
  readonly options?: unknown;
  readonly memory: SharedArrayBuffer;
}

/** Bytes before the JSON of an answer: a flag and a length. */
export const SYNC_HEADER_BYTES = 8;

type LoosePart = { readonly [key: string]: unknown };

function answer({ run: _run, estimate, options: schema }: AnyStage, request: SyncRequest): unknown {
  if (request.what === "estimate") {
    return estimate(request.value as LayerShape & { readonly rank: number }, request.options as never);
  }
  const parsed = v.safeParse(schema, request.value);
  return parsed.success ? { output: parsed.output } : { issues: describeIssues(parsed.issues) };
}

/** Writes an answer where the program waits for it. */
function answerInto(memory: SharedArrayBuffer, body: () => unknown): void {
  const [flag, length] = [new Int32Array(memory, 0, 1), new Int32Array(memory, 4, 1)];
  let text: string;
  try {
    text = JSON.stringify({ value: body() });
  } catch (error) {
    text = JSON.stringify({ error: error instanceof Error ? error.message : String(error) });
  }
  const bytes = new TextEncoder().encode(text);
  const room = new Uint8Array(memory, SYNC_HEADER_BYTES);
  length[0] = bytes.length <= room.length ? bytes.length : -1;
  if (length[0] >= 0) room.set(bytes);
  Atomics.store(flag, 0, 1);
  Atomics.notify(flag, 0);
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
      stages.map(({ kind, scope, name, version, description, filter, options }): StageInfo => {
        const { entries = {} } = options as { readonly entries?: LoosePart };
        return { kind, scope, name, version, description, filter, fields: Object.keys(entries) };
      }),
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
      const input = receiveInput(
        { ...parts },
        kind as SandboxKind,
        handles,
        (method, ...args) => peer.call("ask", call, method, ...args),
      );
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
