/**
 * Losses after the last block, over rows in chunks, so that logits of a large vocabulary never stand in memory at once.
 *
 * @module
 */
import type { Runtime, Session, Tensor } from "../../kernels/runtime/types.ts";
import type { CheckpointReader } from "../checkpoint/types.ts";
import { encodeModel } from "../graph/encode.ts";
import type { ModelDescription } from "../model/types.ts";
import { readFloats, readScalar } from "./engine.ts";
import { buildCrossEntropy, buildDistillationLoss } from "./head_graph.ts";

/** Most logits in one run: 64 MB of f32 (512 MB on a GPU), of which a loss holds a handful. */
const MOST_LOGITS = { cpu: 2 ** 24, cuda: 2 ** 27, webgpu: 2 ** 25 } as const;

/** A loss and where it pulls. */
export interface HeadLoss {
  /** Sum over rows, nats. */
  readonly loss: number;
  /** Of the shape of the hidden states; `undefined` where it was not asked for. */
  readonly gradient: Float32Array;
}

/** Final norm, head and losses of a model. */
export interface Head extends AsyncDisposable {
  /**
   * Cross-entropy of each window's next tokens.
   *
   * @param hidden Output of the last block, `(windows, tokens, hidden)`.
   * @returns The sum over all predicted tokens and its gradient; `gradient` is empty without `withGradient`.
   */
  crossEntropy(hidden: Float32Array, windows: readonly Int32Array[], withGradient: boolean): Promise<HeadLoss>;
  /**
   * KL(teacher ‖ student), summed over tokens, with the gradient of its mean.
   *
   * @param hidden Student's and teacher's outputs of the last block, `(rows, hidden)` each.
   */
  distillation(hidden: Float32Array, teacher: Float32Array): Promise<HeadLoss>;
}

/** Reads final norm and head and loads the losses when first used. */
export async function openHead(runtime: Runtime, model: ModelDescription, checkpoint: CheckpointReader): Promise<Head> {
  const { hiddenSize, vocabularySize } = model;
  const norm = runtime.tensor("float32", await checkpoint.tensor(model.finalNorm).read(), [hiddenSize]);
  const matrix = checkpoint.tensor(model.head);
  const head = runtime.tensor("float32", await matrix.read(), matrix.shape);
  const sized = { ...model, vocabularySize: matrix.shape[0] };
  const chunk = Math.max(1, Math.floor(MOST_LOGITS[runtime.provider] / vocabularySize));
  const sessions = new Map<string, Promise<Session>>();
  const session = (name: string, build: () => ReturnType<typeof buildCrossEntropy>) => {
    let found = sessions.get(name);
    if (found === undefined) sessions.set(name, found = runtime.load(encodeModel(build()), { name }));
    return found;
  };
  const rowsOf = (data: Float32Array, start: number, end: number): Tensor =>
    runtime.tensor("float32", data.subarray(start * hiddenSize, end * hiddenSize), [end - start, hiddenSize]);

  return {
    async crossEntropy(hidden, windows, withGradient) {
      const tokens = windows[0].length;
      const rows = windows.length * tokens;
      const labels = new BigInt64Array(rows);
      const mask = new Float32Array(rows);
      windows.forEach((window, at) => {
        for (let t = 0; t + 1 < tokens; t++) {
          labels[at * tokens + t] = BigInt(window[t + 1]);
          mask[at * tokens + t] = 1;
        }
      });
      const run = await session(
        withGradient ? "cross-entropy with gradient" : "cross-entropy",
        () => buildCrossEntropy(sized, { gradient: withGradient }),
      );
      const gradient = new Float32Array(withGradient ? hidden.length : 0);
      let loss = 0;
      for (let start = 0; start < rows; start += chunk) {
        const end = Math.min(rows, start + chunk);
        using part = rowsOf(hidden, start, end);
        using label = runtime.tensor("int64", labels.slice(start, end), [end - start]);
        using counted = runtime.tensor("float32", mask.slice(start, end), [end - start]);
        const found = await run.run({ hidden: part, norm, head, labels: label, mask: counted });
        loss += await readScalar(found.loss);
        if (withGradient) gradient.set(await readFloats(found.gradient), start * hiddenSize);
      }
      return { loss, gradient };
    },
    async distillation(hidden, teacher) {
      const rows = hidden.length / hiddenSize;
      const run = await session("distillation loss", () => buildDistillationLoss(sized));
      const gradient = new Float32Array(hidden.length);
      using share = runtime.tensor("float32", Float32Array.of(1 / rows), []);
      let loss = 0;
      for (let start = 0; start < rows; start += chunk) {
        const end = Math.min(rows, start + chunk);
        using part = rowsOf(hidden, start, end);
        using target = rowsOf(teacher, start, end);
        const found = await run.run({ hidden: part, teacher: target, norm, head, share });
        loss += await readScalar(found.loss);
        gradient.set(await readFloats(found.gradient), start * hiddenSize);
      }
      return { loss, gradient };
    },
    async [Symbol.asyncDispose]() {
      norm[Symbol.dispose]();
      head[Symbol.dispose]();
      for (const each of sessions.values()) await (await each)[Symbol.asyncDispose]();
    },
  };
}
