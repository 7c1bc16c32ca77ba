/**
 * Losses after the last block, over rows in chunks, so that logits of a large vocabulary never stand in memory at once.
 *
 * @module
 */
import type { Runtime, Session, Tensor } from "../../kernels/runtime/types.ts";
import type { CheckpointReader } from "../checkpoint/types.ts";
import { encodeModel } from "../graph/encode.ts";
import type { Graph } from "../graph/types.ts";
import type { ModelDescription } from "../model/types.ts";
import { requireToken } from "./embedding.ts";
import { disposeFeeds, type Feeds, readScalar } from "./engine.ts";
import { moveToTensor } from "./move_array.ts";
import { buildCrossEntropy, buildDistillationLoss, buildJoinRows, buildTiedEmbedding } from "./head_graph.ts";

/** Most logits in one run: 64 MB of f32 (1 GB on a GPU), of which a loss holds a handful. */
const MOST_LOGITS = { cpu: 2 ** 24, cuda: 2 ** 28, webgpu: 2 ** 25 } as const;

/** Most logits that a loss holds at once on a provider. */
export function mostLogits(provider: Runtime["provider"]): number {
  return MOST_LOGITS[provider];
}

/** Final norm, head and losses of a model. Hidden states are outputs of the last block, `(windows, tokens, hidden)`. */
export interface Head extends AsyncDisposable {
  /** Cross-entropy of each window's next tokens, summed over all predicted tokens, nats. */
  crossEntropy(hidden: Tensor, windows: readonly Int32Array[]): Promise<number>;
  /** The same with the gradient of the sum, of the shape of `hidden`. */
  crossEntropyGradient(hidden: Tensor, windows: readonly Int32Array[]): Promise<HeadLoss>;
  /** KL(teacher ‖ student), summed over tokens, nats, with the gradient of its mean, of the shape of `hidden`. */
  distillation(hidden: Tensor, teacher: Tensor): Promise<HeadLoss>;
  /**
   * Where the head is the embedding: windows of token ids embedded on the device, `(windows, tokens, hidden)`, disposed by the
   * caller.
   *
   * @throws {RangeError} when a token id is outside the vocabulary.
   */
  readonly embed: ((windows: readonly Int32Array[]) => Promise<Tensor>) | undefined;
}

/** A loss and where it pulls. */
export interface HeadLoss {
  /** Sum over rows, nats. */
  readonly loss: number;
  /** Of the shape of the hidden states; disposed by the caller. */
  readonly gradient: Tensor;
}

/** Reads final norm and head and loads the losses when first used. */
export async function openHead(runtime: Runtime, model: ModelDescription, checkpoint: CheckpointReader): Promise<Head> {
  const { hiddenSize, vocabularySize } = model;
  const norm = runtime.tensor("float32", await checkpoint.tensor(model.finalNorm).read(), [hiddenSize]);
  const matrix = checkpoint.tensor(model.head);
  const head = moveToTensor(runtime, await matrix.read(), matrix.shape);
  const sized = { ...model, vocabularySize: matrix.shape[0] };
  const chunk = Math.max(1, Math.floor(MOST_LOGITS[runtime.provider] / vocabularySize));
  const sessions = new Map<string, Promise<Session>>();
  const session = (name: string, build: () => Graph) => {
    let found = sessions.get(name);
    if (found === undefined) {
      sessions.set(
        name,
        found = runtime.load(encodeModel(build()), { name, memoryPattern: runtime.provider !== "cpu" }),
      );
    }
    return found;
  };
  const index = (at: number) => runtime.tensor("int64", BigInt64Array.of(BigInt(at)), [1]);

  /** Runs a loss over all rows in chunks; `more` gives its other feeds for rows `[from, to)`, disposed here. */
  const overRows = async (run: Session, hidden: Tensor, more: (from: number, to: number) => Feeds, kept: Feeds) => {
    const rows = hidden.byteLength / 4 / hiddenSize;
    const pieces: Feeds = {};
    let loss = 0;
    for (let from = 0; from < rows; from += chunk) {
      const to = Math.min(rows, from + chunk);
      const own = { start: index(from), end: index(to), ...more(from, to) };
      using sum = runtime.empty("float32", []);
      const gradient = run.outputs.some(({ name }) => name === "gradient") &&
        { gradient: runtime.empty("float32", [to - from, hiddenSize]) };
      const found = await run.run({ hidden, norm, head, ...kept, ...own }, { into: { loss: sum, ...gradient } });
      disposeFeeds(own);
      loss += await readScalar(sum);
      if (found.gradient !== undefined) pieces[`rows${Object.keys(pieces).length}`] = found.gradient;
    }
    return { loss, pieces };
  };
  const joined = async (pieces: Feeds, shape: readonly number[]): Promise<Tensor> => {
    const count = Object.keys(pieces).length;
    const join = await session(JSON.stringify(["join", count, shape]), () => buildJoinRows(count, shape));
    const { all } = await join.run(pieces);
    disposeFeeds(pieces);
    return all;
  };
  const crossEntropy = async (hidden: Tensor, windows: readonly Int32Array[], gradient: boolean) => {
    const tokens = windows[0].length;
    const labels = new BigInt64Array(windows.length * tokens);
    const mask = new Float32Array(windows.length * tokens);
    windows.forEach((window, at) => {
      for (let t = 0; t + 1 < tokens; t++) {
        labels[at * tokens + t] = BigInt(window[t + 1]);
        mask[at * tokens + t] = 1;
      }
    });
    const run = await session(
      gradient ? "cross-entropy with gradient" : "cross-entropy",
      () => buildCrossEntropy(sized, { gradient }),
    );
    return await overRows(run, hidden, (from, to) => ({
      labels: runtime.tensor("int64", labels.slice(from, to), [to - from]),
      mask: runtime.tensor("float32", mask.slice(from, to), [to - from]),
    }), {});
  };

  return {
    crossEntropy: async (hidden, windows) => (await crossEntropy(hidden, windows, false)).loss,
    async crossEntropyGradient(hidden, windows) {
      const { loss, pieces } = await crossEntropy(hidden, windows, true);
      return { loss, gradient: await joined(pieces, hidden.shape) };
    },
    async distillation(hidden, teacher) {
      const run = await session("distillation loss", () => buildDistillationLoss(sized));
      using share = runtime.tensor("float32", Float32Array.of(hiddenSize / (hidden.byteLength / 4)), []);
      const { loss, pieces } = await overRows(run, hidden, () => ({}), { teacher, share });
      return { loss, gradient: await joined(pieces, hidden.shape) };
    },
    embed: model.tiedHead
      ? async (windows) => {
        const tokens = windows.flatMap((window) => [...window]);
        // Gather on a GPU gives zeros for what is outside
        for (const token of tokens) requireToken(token, sized.vocabularySize);
        const run = await session("tied embedding", () => buildTiedEmbedding(sized));
        using ids = runtime.tensor("int64", BigInt64Array.from(tokens, BigInt), [windows.length, windows[0].length]);
        return (await run.run({ ids, head })).hidden;
      }
      : undefined,
    async [Symbol.asyncDispose]() {
      norm[Symbol.dispose]();
      head[Symbol.dispose]();
      for (const each of sessions.values()) await (await each)[Symbol.asyncDispose]();
    },
  };
}
