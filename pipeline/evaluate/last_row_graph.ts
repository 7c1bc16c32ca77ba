/**
 * A graph that takes the last row of logits, so that a prompt's other rows never come to JavaScript.
 *
 * @module
 */
import { encodeModel } from "../graph/encode.ts";
import { createGraph } from "../graph/graph.ts";
import { cast, slice, squeeze } from "../graph/ops.ts";

/**
 * Builds it.
 *
 * @param dtype Type of the logits.
 * @returns A model: `logits` `(batch, length, vocabulary)` → `row` `(batch, vocabulary)` float32.
 */
export function lastRowGraph(dtype: "float32" | "float16"): Uint8Array {
  const g = createGraph("last_row");
  const logits = g.input("logits", dtype, ["batch", "length", "vocabulary"]);
  const last = squeeze(g, slice(g, logits, 1, -1), [1]);
  g.output("row", dtype === "float32" ? last : cast(g, last, "float32"));
  return encodeModel(g);
}
