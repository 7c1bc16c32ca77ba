/**
 * Trained parameters as one flat vector: optimizers, files and gradients need not know what is inside.
 *
 * @module
 */
import type { Graph, Value } from "../graph/types.ts";
import { reshape, split } from "../graph/ops.ts";

/** One tensor inside a flat vector. */
export interface Segment {
  readonly name: string;
  readonly shape: readonly number[];
}

/** Number of elements of a shape. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

/** Elements of all segments together. */
export function flatLength(segments: readonly Segment[]): number {
  return segments.reduce((sum, segment) => sum + elementsOf(segment.shape), 0);
}

/**
 * Width of the rows in which pieces of these sizes can be cut, and joined by the gradient: ONNX Runtime's CUDA kernels for unequal pieces copy
 * a table with an entry for every index of the axis, 28 MB and 2 ms for the signs of a small block as one axis.
 */
function rowWidth(sizes: readonly number[]): number {
  return Math.max(
    1,
    sizes.reduce((a, b) => {
      while (b > 0) [a, b] = [b, a % b];
      return a;
    }, 0),
  );
}

/**
 * Cuts a flat vector into its tensors, in a graph.
 *
 * @param flat `(flatLength(segments),)`.
 * @returns Values by segment name, each of its segment's shape.
 */
export function unflatten(g: Graph, flat: Value, segments: readonly Segment[]): Map<string, Value> {
  if (segments.length === 1) return new Map([[segments[0].name, reshape(g, flat, segments[0].shape)]]);
  const sizes = segments.map(({ shape }) => elementsOf(shape)), width = rowWidth(sizes);
  const pieces = split(g, reshape(g, flat, [-1, width]), 0, sizes.map((size) => size / width));
  return new Map(segments.map(({ name, shape }, index) => [name, reshape(g, pieces[index], shape)]));
}

/**
 * Joins arrays into one flat vector, in the order of `segments`.
 *
 * @throws {RangeError} when an array has not its segment's length.
 */
export function joinSegments(segments: readonly Segment[], arrays: ReadonlyMap<string, Float32Array>): Float32Array {
  const flat = new Float32Array(flatLength(segments));
  let at = 0;
  for (const { name, shape } of segments) {
    const array = arrays.get(name);
    if (array?.length !== elementsOf(shape)) {
      throw new RangeError(
        `Cannot join "${name}" of shape [${shape}] into a flat vector: it has ${array?.length ?? "no"} elements`,
      );
    }
    flat.set(array, at);
    at += array.length;
  }
  return flat;
}

/** Cuts a flat vector into views, by segment name. */
export function cutSegments(segments: readonly Segment[], flat: Float32Array): Map<string, Float32Array> {
  let at = 0;
  return new Map(segments.map(({ name, shape }) => {
    const start = at;
    at += elementsOf(shape);
    return [name, flat.subarray(start, at)];
  }));
}
