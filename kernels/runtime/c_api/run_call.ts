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
  run(values: RunValues, options: bigint, hold: boolean): Promise<BigUint64Array> {
    return this.#memory === undefined
      ? this.#runOnCpu(values, options, hold)
      : this.#runBound(values, options, hold, this.#memory);
  }

  async #runOnCpu({ inputs, feeds, outputs, into }: RunValues, options: bigint, hold: boolean) {
    const { api } = this.#environment;
    const inputNames = this.#list(inputs);
    const outputNames = this.#list(outputs);
    const [inputValues, outputValues] = hold
      ? this.#directFrame(feeds.length, outputs.length)
      : [newWords(feeds.length), newWords(outputs.length)];
    for (let index = 0; index < feeds.length; index++) inputValues.words[index] = feeds[index].value;
    for (let index = 0; index < into.length; index++) outputValues.words[index] = into[index]?.value ?? 0n;
    const call = [
      this.#session,
      options,
      inputNames.address,
      inputValues.address,
      feeds.length,
      outputNames.address,
      outputs.length,
      outputValues.address,
    ] as const;
    const status = hold
      ? api.Run(...call)
      : await whileKept([inputNames, outputNames, inputValues, outputValues], api.RunSlow(...call));
    check(api, status, () => `run ${this.#name}`);
    return hold ? outputValues.words.slice(0, outputs.length) : outputValues.words;
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

  /** Arrays for a direct call, during which no other run can begin. */
  #directFrame(inputs: number, outputs: number): readonly [Words, Words] {
    if (this.#frame === undefined || this.#frame[0].count < inputs || this.#frame[1].count < outputs) {
      this.#frame = [newWords(inputs), newWords(outputs)];
    }
    return this.#frame;
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
