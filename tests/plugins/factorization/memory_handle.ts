/** A weight in memory, and a job for it. */
import type { TensorHandle } from "../../../pipeline/checkpoint/types.ts";
import type { LayerJob } from "../../../pipeline/stream/stage.ts";
import type { Matrix } from "./dbf_admm/twins.ts";

/** A handle on f32 copies of a matrix. */
export function memoryHandle(name: string, w: Matrix): TensorHandle {
  const values = Float32Array.from(w.data);
  return {
    name,
    dtype: "F32",
    shape: [w.rows, w.cols],
    file: "memory",
    readRows: (start, end) => Promise.resolve(values.slice(start * w.cols, end * w.cols)),
    read: () => Promise.resolve(values.slice()),
    bytes: async function* () {
      yield await Promise.resolve(new Uint8Array(values.buffer));
    },
  };
}

/** A job of a kind that has no middle dimension. */
export function fixedJob(name: string, { rows, cols }: Pick<Matrix, "rows" | "cols">): LayerJob {
  return { name, block: 0, role: "mlp.up_proj", rows, cols, rank: 0, seed: 1 };
}
