/**
 * One run of a session: its arrays of names and values, and the call itself.
 *
 * @module
 */
import type { ValueInfo } from "../types.ts";
import type { DeviceMemory } from "./device_memory.ts";
import type { Environment } from "./environment.ts";
import { addressOf, cString, newWords, whileKept, type Words, wordsAt } from "./memory.ts";
import { check } from "./status.ts";
import type { OrtTensor } from "./tensor.ts";

/** A name of an input or output as a C string that does not move. */
interface Name {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly address: bigint;
}

/** Inputs and outputs of one run, in order; an output without a tensor is made by ONNX Runtime. */
export interface RunValues {
  readonly inputs: readonly ValueInfo[];
  readonly feeds: readonly OrtTensor[];
  readonly outputs: readonly ValueInfo[];
  readonly into: readonly (OrtTensor | undefined)[];
}

/** Values of the outputs in order; at once from a run that held the event loop. */
export type Called = BigUint64Array | Promise<BigUint64Array>;

/** Calls the runs of one session. */
export class RunCaller {
  readonly #environment: Environment;
  readonly #session: bigint;
  readonly #name: string;
  readonly #memory: DeviceMemory | undefined;
  #frame: readonly [Words, Words] | undefined;
  readonly #names = new Map<string, Name>();
  readonly #nameLists = new WeakMap<readonly ValueInfo[], Words>();

  constructor(environment: Environment, session: bigint, name: string, memory: DeviceMemory | undefined) {
    this.#environment = environment;
    this.#session = session;
    this.#name = name;
    this.#memory = memory;
  }

  /**
   * Runs, and returns the values of the outputs, owned by the caller where `into` has none.
   *
   * @param options Address of ONNX Runtime's run options; 0 for none.
   * @param hold Whether to call directly, holding the event loop.
   * @throws {OrtError} when the run fails.
   */
  run(values: RunValues, options: bigint, hold: boolean): Called {
    if (this.#memory !== undefined) return this.#runBound(values, options, hold, this.#memory);
    return hold ? this.#runHere(values, options) : this.#runElsewhere(values, options);
  }

  /** On this thread, with arrays that serve every such run: no other can begin during it. */
  #runHere(values: RunValues, options: bigint): BigUint64Array {
    const { feeds, outputs } = values;
    if (this.#frame === undefined || this.#frame[0].count < feeds.length || this.#frame[1].count < outputs.length) {
      this.#frame = [newWords(feeds.length), newWords(outputs.length)];
    }
    const [fed, made] = this.#frame;
    fill(values, fed, made);
    const names = this.#list(values.inputs), outputNames = this.#list(outputs);
    const { api } = this.#environment;
    const status = api.Run(
      this.#session,
      options,
      names.address,
      fed.address,
      names.size,
      outputNames.address,
      outputNames.size,
      made.address,
    );
    if (status !== 0n) check(api, status, `run ${this.#name}`);
    return made.words.slice(0, outputs.length);
  }

  /** On a thread of Deno's, with arrays of its own. */
  async #runElsewhere(values: RunValues, options: bigint): Promise<BigUint64Array> {
    const fed = newWords(values.feeds.length), made = newWords(values.outputs.length);
    fill(values, fed, made);
    const names = this.#list(values.inputs), outputNames = this.#list(values.outputs);
    const { api } = this.#environment;
    const status = await whileKept(
      [names, outputNames, fed, made],
      api.RunSlow(
        this.#session,
        options,
        names.address,
        fed.address,
        names.size,
        outputNames.address,
        outputNames.size,
        made.address,
      ),
    );
    check(api, status, () => `run ${this.#name}`);
    return made.words;
  }

  async #runBound(
    { inputs, feeds, outputs, into }: RunValues,
    options: bigint,
    hold: boolean,
    memory: DeviceMemory,
  ): Promise<BigUint64Array> {
    const { api, cpuMemory, cpuAllocator } = this.#environment;
    const attempt = () => `run ${this.#name}`;
    const out = newWords(2).words;
    check(api, api.CreateIoBinding(this.#session, out), attempt);
    const binding = out[0];
    try {
      inputs.forEach(({ name }, index) =>
        check(api, api.BindInput(binding, this.#nameOf(name).address, feeds[index].value), attempt)
      );
      outputs.forEach(({ name, dtype }, index) => {
        const { address } = this.#nameOf(name);
        const target = into[index];
        const status = target === undefined
          ? api.BindOutputToDevice(binding, address, dtype === "string" ? cpuMemory : memory.info)
          : api.BindOutput(binding, address, target.value);
        check(api, status, attempt);
      });
      const status = hold
        ? api.RunWithBinding(this.#session, options, binding)
        : await api.RunWithBindingSlow(this.#session, options, binding);
      check(api, status, attempt);
      check(api, api.GetBoundOutputValues(binding, cpuAllocator, out, out.subarray(1)), attempt);
      const values = wordsAt(out[0], Number(out[1]));
      check(api, api.AllocatorFree(cpuAllocator, out[0]), attempt);
      // The caller's own tensors come back as second references to the same memory.
      values.forEach((value, index) => into[index] !== undefined && api.ReleaseValue(value));
      return values;
    } finally {
      api.ReleaseIoBinding(binding);
    }
  }

  #nameOf(name: string): Name {
    let found = this.#names.get(name);
    if (found === undefined) {
      const bytes = cString(name);
      found = { bytes, address: addressOf(bytes) };
      this.#names.set(name, found);
    }
    return found;
  }

  #list(values: readonly ValueInfo[]): Words {
    let found = this.#nameLists.get(values);
    if (found === undefined) {
      found = newWords(values.length);
      for (let index = 0; index < values.length; index++) found.words[index] = this.#nameOf(values[index].name).address;
      this.#nameLists.set(values, found);
    }
    return found;
  }
}

/** Writes the addresses of values into the arrays of a call. */
function fill({ feeds, into }: RunValues, fed: Words, made: Words): void {
  for (let index = 0; index < feeds.length; index++) fed.words[index] = feeds[index].value;
  for (let index = 0; index < into.length; index++) made.words[index] = into[index]?.value ?? 0n;
}
