/**
 * Sessions whose kernels CUDA records once and replays: what a launch costs on the host disappears.
 *
 * ONNX Runtime runs such a graph a few times before it records it, and keeps a recording for every `gpu_graph_id`, which belongs
 * to the addresses that were bound and, in the provider, to the calling thread.
 *
 * @module
 */
import type { ValueInfo } from "../types.ts";
import type { Environment } from "./environment.ts";
import { cString, newWords } from "./memory.ts";
import { check } from "./status.ts";
import type { OrtTensor } from "./tensor.ts";

/** Every recording holds device memory; two sets of tensors that swap roles need two. */
const MOST_RECORDINGS = 16;

/** Chooses the recording of a run by the tensors that it uses. */
export class CudaGraphs {
  readonly #environment: Environment;
  readonly #name: string;
  readonly #recordings = new Map<string, bigint>();

  constructor(environment: Environment, name: string) {
    this.#environment = environment;
    this.#name = name;
  }

  /**
   * Run options for the recording of these tensors, valid until {@linkcode release}.
   *
   * @throws {TypeError} when an output has no tensor of the caller, as a recording writes where it was recorded.
   * @throws {RangeError} when too many sets of tensors were used.
   */
  optionsFor(
    feeds: readonly OrtTensor[],
    outputs: readonly ValueInfo[],
    into: readonly (OrtTensor | undefined)[],
  ): bigint {
    const missing = outputs.find((_, index) => into[index] === undefined);
    if (missing !== undefined) {
      throw new TypeError(
        `Cannot run ${this.#name} as a CUDA graph as output "${missing.name}" has no tensor: name one in the option into`,
      );
    }
    const key = [...feeds, ...into as OrtTensor[]].map((tensor) => `${tensor.address}:${tensor.shape}`).join(" ");
    const known = this.#recordings.get(key);
    if (known !== undefined) return known;
    if (this.#recordings.size >= MOST_RECORDINGS) {
      throw new RangeError(
        `Cannot record ${this.#name} for more than ${MOST_RECORDINGS} sets of tensors: use the same tensors again, or ` +
          "load it without the option cudaGraph",
      );
    }
    const { api } = this.#environment;
    const out = newWords(1).words;
    check(api, api.CreateRunOptions(out), "make run options");
    const options = out[0];
    const id = cString(String(this.#recordings.size + 1));
    check(api, api.AddRunConfigEntry(options, cString("gpu_graph_id"), id), `record ${this.#name}`);
    this.#recordings.set(key, options);
    return options;
  }

  /** Ends the options; the recordings end with their session. */
  release(): void {
    for (const options of this.#recordings.values()) this.#environment.api.ReleaseRunOptions(options);
    this.#recordings.clear();
  }
}
