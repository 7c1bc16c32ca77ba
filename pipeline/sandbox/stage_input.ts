/**
 * A stage's input across a worker's border: handles, tensors and functions become what can be sent, and back.
 *
 * @module
 */
import type { Tensor } from "../../kernels/runtime/types.ts";
import type { CheckpointReader, TensorHandle } from "../checkpoint/types.ts";
import type { AllocationBudget, Candidate, LayerJob, LayerShape, StageIO, StageKind } from "../stream/stage.ts";
import type { CheckpointInfo, HandleInfo, Handles, HandleScope } from "./handles.ts";
import type { Handlers, Peer } from "./peer.ts";
import type { RemoteRuntime } from "./remote_runtime.ts";
import type { RuntimeHost, TensorInfo } from "./runtime_host.ts";

/** Kinds that run in the sandbox: all but targets, which write files. */
export type SandboxKind = Exclude<StageKind, "target">;

/** The input of any stage, seen as its parts. */
type Parts = Record<string, unknown>;

/** What the program lends for the time of one call. */
export interface Lender {
  readonly handles: Handles;
  readonly scope: HandleScope;
  readonly host: RuntimeHost;
  /** Receives what must be taken back when the call ends. */
  readonly borrowed: DisposableStack;
}

/** A call's input as sent, and what answers the plugin's questions about it. */
export interface SentInput {
  readonly parts: Parts;
  readonly handlers: Handlers;
}

/** Prepares an input for sending. */
export function sendInput<K extends SandboxKind>(
  input: StageIO[K]["input"],
  { handles, scope, host, borrowed }: Lender,
): SentInput {
  const given = input as Parts;
  const parts: Parts = {};
  const handlers: Record<string, (...args: never[]) => unknown> = {};
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined) continue;
    if (key === "checkpoint") parts[key] = scope.sendCheckpoint(value as CheckpointReader);
    else if (key === "weight" && typeof value !== "function") parts[key] = scope.send(value as TensorHandle);
    else if (key === "weight") {
      // Allocation asks for weights by name and at once, so all are sent along.
      const weight = value as StageIO["allocation"]["input"]["weight"];
      parts.weights = (given.layers as readonly LayerShape[]).map(({ name }) => scope.send(weight(name)));
    } else if (key === "budget") {
      const { total, unit, ...budget } = value as AllocationBudget;
      parts[key] = { total, unit };
      handlers.cost = budget.cost;
      handlers.costOf = budget.costOf;
      handlers.tooSmall = (least: number, reasons: string) => budget.tooSmall(least, reasons).message;
    } else if (key === "candidates") {
      const candidates = value as StageIO["allocation"]["input"]["candidates"];
      parts[key] = [...candidates].map(([name, { identity }]) => [name, identity]);
      handlers.candidateStores = (name: string, layer: LayerShape) => candidates.get(name)?.stores(layer);
      handlers.candidateMake = (name: string, layer: LayerShape) => candidates.get(name)?.make(layer);
    } else if (key === "inputMoment") parts[key] = borrowed.use(host.lend(value as Tensor)).info;
    else if (key === "wantsInputMoment") {
      const wants = value as StageIO["reconstruction"]["input"]["wantsInputMoment"];
      parts[key] = (given.jobs as readonly LayerJob[]).filter(wants).map(({ name }) => name);
    } else if (key === "factorize") {
      const factorize = value as StageIO["reconstruction"]["input"]["factorize"];
      handlers.factorize = (job: LayerJob, weight: HandleInfo, moment?: number) =>
        factorize(job, handles.receive(weight), moment === undefined ? undefined : host.find(moment));
    } else if (typeof value === "function") handlers[key] = value as (...args: never[]) => unknown;
    else parts[key] = value;
  }
  // A plugin could offer as another stage's what that stage would never make.
  delete handlers.offer;
  return { parts, handlers };
}

/** What the plugin's side reaches the program by. */
export interface Reach {
  readonly handles: Handles;
  readonly runtime: RemoteRuntime;
  /** Calls a function that stayed behind. */
  readonly ask: Peer["call"];
  /** The same, holding this thread until it has answered. */
  readonly askNow: (method: string, ...args: unknown[]) => unknown;
}

/** The input as the plugin sees it. */
export function receiveInput(parts: Parts, kind: SandboxKind, reach: Reach): unknown {
  const { handles, runtime, ask, askNow } = reach;
  const { checkpoint, weight, weights, ...input } = parts;
  if (checkpoint !== undefined) input.checkpoint = handles.receiveCheckpoint(checkpoint as CheckpointInfo);
  if (weight !== undefined) input.weight = handles.receive(weight as HandleInfo);
  if (input.inputMoment !== undefined) input.inputMoment = runtime.receive(input.inputMoment as TensorInfo);
  if (kind === "allocation") {
    const byName = new Map((weights as HandleInfo[]).map((info) => [info.name, handles.receive(info)]));
    input.weight = (name: string) => {
      const found = byName.get(name);
      if (found === undefined) throw new Error(`Cannot find the weight "${name}": it is not among the layers`);
      return found;
    };
    const budget: AllocationBudget = {
      ...input.budget as Pick<AllocationBudget, "total" | "unit">,
      cost: ({ name, rows, cols }, rank) => askNow("cost", { name, rows, cols }, rank) as number,
      costOf: (storage) => askNow("costOf", storage) as number,
      tooSmall: (least, reasons) => new RangeError(String(askNow("tooSmall", least, reasons))),
    };
    const candidates = new Map(
      (input.candidates as [string, unknown][]).map(([name, identity]): [string, Candidate] => [name, {
        identity,
        stores: (layer) => askNow("candidateStores", name, layer) as ReturnType<Candidate["stores"]>,
        make: (layer) => ask("candidateMake", name, layer) as ReturnType<Candidate["make"]>,
      }]),
    );
    Object.assign(input, { budget, candidates, offer: () => {} });
  }
  if (kind === "reconstruction") {
    const wanting = new Set(input.wantsInputMoment as string[]);
    input.wantsInputMoment = ({ name }: LayerJob) => wanting.has(name);
    input.committed = (name: string) => ask("committed", name);
    input.factorize = async (job: LayerJob, own: TensorHandle, moment?: Tensor) => {
      using scope = handles.scope();
      return await ask("factorize", job, scope.send(own), moment === undefined ? undefined : runtime.idOf(moment));
    };
  }
  if (kind === "distillation") {
    input.factors = (name: string) => ask("factors", name);
    input.commit = (name: string, factors: unknown) => ask("commit", name, factors);
  }
  return input;
}
