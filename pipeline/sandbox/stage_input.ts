/**
 * A stage's input across a worker's border: handles and functions become what can be sent, and back.
 *
 * @module
 */
import type { CheckpointReader, TensorHandle } from "../checkpoint/types.ts";
import type { LayerJob, LayerShape, StageIO, StageKind } from "../stream/stage.ts";
import type { CheckpointInfo, HandleInfo, Handles, HandleScope } from "./handles.ts";
import type { Handlers, Peer } from "./peer.ts";

/** Kinds that run in the sandbox: all but targets, which write files. */
export type SandboxKind = Exclude<StageKind, "target">;

/** The input of any stage, seen as its parts. */
type Parts = Record<string, unknown>;

/** A call's input as sent, and what answers the plugin's questions about it. */
export interface SentInput {
  readonly parts: Parts;
  readonly handlers: Handlers;
}

/**
 * Prepares an input for sending.
 *
 * @param scope Handles that live as long as the call.
 */
export function sendInput<K extends SandboxKind>(
  input: StageIO[K]["input"],
  scope: HandleScope,
  handles: Handles,
): SentInput {
  const given = input as Parts;
  const parts: Parts = {};
  const handlers: Record<string, (...args: never[]) => unknown> = {};
  for (const [key, value] of Object.entries(given)) {
    if (key === "checkpoint") parts[key] = scope.sendCheckpoint(value as CheckpointReader);
    else if (key === "weight" && typeof value !== "function") parts[key] = scope.send(value as TensorHandle);
    else if (key === "weight") {
      // Allocation asks for weights by name and at once, so all are sent along.
      const weight = value as StageIO["allocation"]["input"]["weight"];
      parts.weights = (given.layers as readonly LayerShape[]).map(({ name }) => scope.send(weight(name)));
    } else if (key === "factorize") {
      const factorize = value as StageIO["reconstruction"]["input"]["factorize"];
      handlers.factorize = (job: LayerJob, weight: HandleInfo) => factorize(job, handles.receive(weight));
    } else if (typeof value === "function") handlers[key] = value as (...args: never[]) => unknown;
    else parts[key] = value;
  }
  return { parts, handlers };
}

/** The input as the plugin sees it; `ask` reaches the functions that stayed behind. */
export function receiveInput(parts: Parts, kind: SandboxKind, handles: Handles, ask: Peer["call"]): unknown {
  const { checkpoint, weight, weights, ...input } = parts;
  if (checkpoint !== undefined) input.checkpoint = handles.receiveCheckpoint(checkpoint as CheckpointInfo);
  if (weight !== undefined) input.weight = handles.receive(weight as HandleInfo);
  if (weights !== undefined) {
    const byName = new Map((weights as HandleInfo[]).map((info) => [info.name, handles.receive(info)]));
    input.weight = (name: string) => {
      const found = byName.get(name);
      if (found === undefined) throw new Error(`Cannot find the weight "${name}": it is not among the layers`);
      return found;
    };
  }
  if (kind === "reconstruction") {
    input.committed = (name: string) => ask("committed", name);
    input.factorize = async (job: LayerJob, own: TensorHandle) => {
      using scope = handles.scope();
      return await ask("factorize", job, scope.send(own));
    };
  }
  if (kind === "distillation") {
    input.factors = (name: string) => ask("factors", name);
    input.commit = (name: string, factors: unknown) => ask("commit", name, factors);
  }
  return input;
}
