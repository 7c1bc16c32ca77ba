/**
 * The full-precision model in a distillation: its last hidden states for the steps that come next, so that memory and disk
 * do not depend on how many windows there are.
 *
 * @module
 */
import type { Runtime, Tensor } from "../../kernels/runtime/types.ts";
import type { ActivationSource } from "./activations.ts";
import { chainDirectory, type ChainOptions, dropOtherChains, openChain } from "./chain.ts";
import { bytesFor } from "./device_memory.ts";
import type { BatchOrder } from "./shuffle.ts";

/** Most bytes of hidden states in a file, where they are not on a GPU: 455 windows of 1024 tokens of SmolLM2-135M. */
export const TEACHER_FILE_BYTES = 2 ** 30;

/** Most bytes of a teacher's hidden states, where no option says it: what may stay on a GPU, 1 GiB in a file on the CPU. */
export function teacherBytesOf(runtime: Pick<Runtime, "provider" | "deviceMemory">): number {
  return runtime.provider === "cuda" ? bytesFor(runtime, "one set of activations") : TEACHER_FILE_BYTES;
}

/** Windows whose hidden states are there at once: all, or the batches that fit, one at least. */
export function teacherWindows(
  { windows, tokens, features }: { readonly windows: number; readonly tokens: number; readonly features: number },
  batch: number,
  bytes: number,
): number {
  const most = Math.floor(bytes / (4 * tokens * features));
  return windows <= most ? windows : Math.min(windows, batch * Math.max(1, Math.floor(most / batch)));
}

/** Last hidden states of the full-precision model. */
export interface Teacher extends Disposable {
  /** Of the windows of a step, `(batch, tokens, hidden)` f32, in the step's order; the caller disposes it. */
  tensor(step: number): Promise<Tensor>;
}

/**
 * Opens a teacher. Where all windows fit, they go through the model once. Otherwise those of the next steps do, chunk by
 * chunk, each block's weights being read once a chunk; several passes over the text then are as many over the teacher. Chunks
 * start at the same steps however a run was interrupted, so that a resumed one finds the files of its chunk.
 *
 * @param chain Of all windows; its directory is used where all fit, one beside it for each chunk, one at a time.
 * @param batches Windows of each step.
 * @param steps How many there will be: none later is computed.
 * @param bytes Most bytes of hidden states kept; in files twice as much while they are computed.
 */
export function openTeacher(
  chain: ChainOptions & { readonly scratch: string },
  batches: BatchOrder,
  steps: number,
  bytes: number,
): Teacher {
  const { engine, windows, batch } = chain;
  const shape = { windows: windows.length, tokens: windows[0].length, features: engine.model.hiddenSize };
  const chunkWindows = teacherWindows(shape, batch, bytes);
  const all = chunkWindows === windows.length;
  const chunkSteps = all ? Math.max(1, steps) : chunkWindows / batch;
  const weights = (block: (typeof engine.model.blocks)[number]) => engine.weights(block);
  let current = -1;
  let places = new Map<number, number>();
  let source: ActivationSource | undefined;
  const load = async (chunk: number): Promise<ActivationSource> => {
    source?.[Symbol.dispose]();
    source = undefined;
    current = -1;
    const last = Math.min(steps, (chunk + 1) * chunkSteps);
    const indices = new Set<number>(all ? windows.keys() : []);
    for (let step = chunk * chunkSteps; step < last && !all; step++) batches(step).forEach((each) => indices.add(each));
    const chosen = [...indices].map((index) => windows[index]);
    const part = all ? chain : { ...chain, windows: chosen, directory: chainDirectory(chain.scratch, chosen) };
    await dropOtherChains(part);
    source = await openChain(part, "full", engine.model.blocks.length, weights);
    places = new Map([...indices].map((index, place) => [index, place]));
    current = chunk;
    return source;
  };
  return {
    async tensor(step) {
      const chunk = Math.floor(step / chunkSteps);
      const found = chunk === current ? source! : await load(chunk);
      return await found.tensor(batches(step).map((index) => places.get(index)!));
    },
    [Symbol.dispose]: () => source?.[Symbol.dispose](),
  };
}
