/**
 * How much memory a graph's values need while it runs, from shapes alone.
 *
 * @module
 */
import { elementBytes } from "../../kernels/runtime/dtype.ts";
import type { Graph, Value } from "./types.ts";

/** Operators whose output is another view of their first input's memory. */
const VIEWS = new Set(["Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"]);

/**
 * Most bytes of intermediate values and outputs that are alive at once when the nodes run in their order and each value is
 * freed after its last use. Inputs and constants, which are not the run's, are not counted.
 *
 * @param dims Lengths of named dimensions.
 * @throws {RangeError} naming a dimension that has no length.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { createGraph } from "./graph.ts";
 * import { liveBytes } from "./live_bytes.ts";
 * import { mul, reduceSum } from "./ops.ts";
 *
 * const g = createGraph("squares");
 * const x = g.input("x", "float32", ["n", 8]);
 * g.output("sum", reduceSum(g, mul(g, x, x), [0, 1], false));
 * assertEquals(liveBytes(g, { n: 4 }), 4 * 8 * 4 + 4);
 * ```
 */
export function liveBytes(g: Graph, dims: Readonly<Record<string, number>> = {}): number {
  const bytesOf = ({ name, dtype, shape }: Value) =>
    elementBytes(dtype) * shape.reduce<number>((size, dim) => {
      const length = typeof dim === "number" ? dim : dims[dim];
      if (length === undefined) throw new RangeError(`Cannot measure "${name}": its dimension "${dim}" has no length`);
      return size * length;
    }, 1);
  /** The value whose memory a value lies in. */
  const owner = new Map<string, string>();
  const ownerOf = (name: string) => owner.get(name) ?? name;
  const last = new Map<string, number>();
  const outputs = new Set(g.graphOutputs.map(({ name }) => name));
  g.nodes.forEach((node, at) => {
    const [first] = node.inputs;
    if (VIEWS.has(node.type) && first !== undefined) owner.set(node.outputs[0].name, ownerOf(first.name));
    for (const input of node.inputs) if (input !== undefined) last.set(ownerOf(input.name), at);
    for (const output of node.outputs) {
      last.set(
        ownerOf(output.name),
        outputs.has(output.name) ? Infinity : Math.max(at, last.get(ownerOf(output.name)) ?? 0),
      );
    }
  });
  const alive = new Map<string, number>();
  let now = 0, most = 0;
  g.nodes.forEach((node, at) => {
    for (const output of node.outputs) {
      if (owner.has(output.name)) continue;
      const bytes = bytesOf(output);
      alive.set(output.name, bytes);
      now += bytes;
    }
    most = Math.max(most, now);
    for (const value of [...node.inputs, ...node.outputs]) {
      const name = value === undefined ? "" : ownerOf(value.name);
      if (last.get(name) !== at) continue;
      now -= alive.get(name) ?? 0;
      alive.delete(name);
    }
  });
  return most;
}
