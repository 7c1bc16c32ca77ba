/**
 * Sessions of the C API: loading, running, ending.
 *
 * @module
 */
import { checkFeeds, chooseOutputs } from "../feeds.ts";
import type { NodePlacement, Provider, RunOptions, Session, SessionOptions, Tensor, ValueInfo } from "../types.ts";
import type { DeviceMemory } from "./device_memory.ts";
import type { Environment } from "./environment.ts";
import { addressOf, cString, newWords, whileKept } from "./memory.ts";
import { giveTurn, isTurnOver, Pace } from "./pace.ts";
import { readPlacement, requirePlacement } from "./placement.ts";
import { type Called, RunCaller, type RunValues } from "./run_call.ts";
import { type SessionDefaults, withSessionOptions } from "./session_options.ts";
import { CudaGraphs } from "./cuda_graph.ts";
import { check } from "./status.ts";
import { OrtTensor, shapeOf } from "./tensor.ts";
import { withTermination } from "./termination.ts";
import { readValues } from "./value_info.ts";

/**
 * Loads a graph.
 *
 * @throws {OrtError} with ONNX Runtime's text when the model is refused.
 * @throws {Error} when a node that `requirePlacement` names is elsewhere.
 */
export async function loadSession(
  environment: Environment,
  defaults: SessionDefaults,
  memory: DeviceMemory | undefined,
  model: Uint8Array | string,
  options: SessionOptions,
): Promise<OrtSession> {
  const { api } = environment;
  const name = options.name ?? (typeof model === "string" ? model : "a graph");
  const handle = await withSessionOptions(environment, defaults, name, options, async (sessionOptions) => {
    const out = newWords(1);
    const status = await createSession(environment, model, sessionOptions, out.address, [out]);
    check(api, status, `load ${name}`);
    return out.words[0];
  });
  try {
    const placement = options.recordPlacement || options.requirePlacement?.length
      ? readPlacement(environment, handle)
      : undefined;
    if (options.requirePlacement?.length) {
      requirePlacement(name, placement!, options.requirePlacement, defaults.provider);
    }
    return new OrtSession(environment, handle, {
      name,
      provider: defaults.provider,
      memory,
      placement,
      profiles: options.profilePrefix !== undefined,
      cudaGraph: options.cudaGraph === true && defaults.provider === "cuda",
    });
  } catch (error) {
    await api.ReleaseSessionSlow(handle);
    throw error;
  }
}

function createSession(
  { api, env }: Environment,
  model: Uint8Array | string,
  options: bigint,
  out: bigint,
  kept: readonly unknown[],
): Promise<bigint> {
  if (typeof model === "string") {
    const path = cString(model);
    return whileKept([...kept, path], api.CreateSessionSlow(env, addressOf(path), options, out));
  }
  if (model.length === 0) throw new TypeError("Cannot load a graph from 0 bytes");
  // Naming the buffer moves a small array's bytes out of V8's moving heap.
  const { buffer, byteOffset, length } = model;
  const bytes = new Uint8Array(buffer as ArrayBuffer, byteOffset, length);
  return whileKept(
    [...kept, bytes],
    api.CreateSessionFromArraySlow(env, addressOf(bytes), length, options, out),
  );
}

interface SessionFacts {
  readonly name: string;
  readonly provider: Provider;
  readonly memory: DeviceMemory | undefined;
  readonly placement: readonly NodePlacement[] | undefined;
  readonly profiles: boolean;
  readonly cudaGraph: boolean;
}

/** A session of the C API. */
export class OrtSession implements Session {
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  readonly provider: Provider;
  readonly placement: readonly NodePlacement[] | undefined;
  readonly #environment: Environment;
  readonly #handle: bigint;
  readonly #facts: SessionFacts;
  readonly #caller: RunCaller;
  readonly #graphs: CudaGraphs | undefined;
  readonly #pace: Pace;
  #runs = 0;
  #idle: PromiseWithResolvers<void> | undefined;
  #ended: Promise<void> | undefined;

  /** Takes over a session; use {@linkcode loadSession}. */
  constructor(environment: Environment, handle: bigint, facts: SessionFacts) {
    this.#environment = environment;
    this.#handle = handle;
    this.#facts = facts;
    this.provider = facts.provider;
    this.#pace = new Pace(facts.provider);
    this.placement = facts.placement;
    this.inputs = readValues(environment, handle, "input");
    this.outputs = readValues(environment, handle, "output");
    this.#caller = new RunCaller(environment, handle, facts.name, facts.memory);
    this.#graphs = facts.cudaGraph ? new CudaGraphs(environment, facts.name) : undefined;
  }

  /** Whether disposal began. */
  get disposed(): boolean {
    return this.#ended !== undefined;
  }

  async run(feeds: Readonly<Record<string, Tensor>>, options: RunOptions = {}): Promise<Record<string, Tensor>> {
    const { name } = this.#facts;
    if (this.#ended !== undefined) throw new Error(`Cannot run ${name}: the session was disposed`);
    options.signal?.throwIfAborted();
    checkFeeds(name, this.inputs, feeds);
    const outputs = chooseOutputs(name, this.outputs, options);
    const fed = this.inputs.map((input) => this.#own("feed", input.name, feeds[input.name]));
    const into = outputs.map((output) => {
      const target = options.into?.[output.name];
      return target === undefined ? undefined : this.#own("output", output.name, target);
    });
    const used: OrtTensor[] = [];
    this.#runs++;
    try {
      let feedBytes = 0;
      for (const tensor of fed) {
        tensor.acquire();
        used.push(tensor);
        feedBytes += tensor.byteLength;
      }
      for (const tensor of into) {
        if (tensor === undefined) continue;
        if (options.inPlace !== true && fed.includes(tensor)) {
          throw new TypeError(`Cannot run ${name} into a tensor that the same run is fed: use two tensors in turn`);
        }
        tensor.acquire();
        used.push(tensor);
      }
      const values = this.#call({ inputs: this.inputs, feeds: fed, outputs, into }, feedBytes, options.signal);
      return this.#wrap(outputs, into, values instanceof Promise ? await values : values);
    } finally {
      for (const tensor of used) tensor.release();
      if (--this.#runs === 0) this.#idle?.resolve();
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#ended ??= this.#end();
  }

  /** Values of the outputs; without a promise when the run was called directly. */
  #call(values: RunValues, feedBytes: number, signal: AbortSignal | undefined): Called {
    if (this.#graphs !== undefined) {
      // A recording belongs to the thread that made it: every run is called from this one.
      return this.#caller.run(values, this.#graphs.optionsFor(values.feeds, values.outputs, values.into), true);
    }
    if (signal !== undefined) {
      return withTermination(this.#environment, signal, (options) => this.#caller.run(values, options, false));
    }
    const hold = this.#pace.isQuick(feedBytes);
    const start = performance.now();
    if (!hold || !isTurnOver(start)) return this.#timed(values, feedBytes, hold, start);
    return giveTurn().then(() => this.#timed(values, feedBytes, hold, performance.now()));
  }

  #timed(values: RunValues, feedBytes: number, hold: boolean, start: number): Called {
    const results = this.#caller.run(values, 0n, hold);
    if (results instanceof Promise) {
      return results.then((all) => {
        this.#pace.learn(feedBytes, performance.now() - start);
        return all;
      });
    }
    this.#pace.learn(feedBytes, performance.now() - start);
    return results;
  }

  #own(kind: string, name: string, tensor: Tensor): OrtTensor {
    if (tensor instanceof OrtTensor) return tensor;
    throw new TypeError(
      `Cannot use ${kind} "${name}" of ${this.#facts.name}: the tensor belongs to another runtime; make it with this runtime's tensor()`,
    );
  }

  #wrap(
    outputs: readonly ValueInfo[],
    into: readonly (OrtTensor | undefined)[],
    values: BigUint64Array,
  ): Record<string, Tensor> {
    const results: Record<string, Tensor> = {};
    for (let index = 0; index < outputs.length; index++) {
      const { name, dtype } = outputs[index];
      const memory = dtype === "string" ? undefined : this.#facts.memory;
      results[name] = into[index] ??
        new OrtTensor(this.#environment, values[index], dtype, shapeOf(this.#environment, values[index]), memory);
    }
    return results;
  }

  async #end(): Promise<void> {
    if (this.#runs > 0) {
      this.#idle = Promise.withResolvers();
      await this.#idle.promise;
    }
    const { api, cpuAllocator } = this.#environment;
    try {
      if (this.#facts.profiles) {
        const out = newWords(1).words;
        check(api, api.SessionEndProfiling(this.#handle, cpuAllocator, out), `end the profile of ${this.#facts.name}`);
        check(api, api.AllocatorFree(cpuAllocator, out[0]), "free the name of a profile");
      }
    } finally {
      this.#graphs?.release();
      await api.ReleaseSessionSlow(this.#handle);
    }
  }
}
