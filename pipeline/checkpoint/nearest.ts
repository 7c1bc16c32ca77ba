/**
 * Names close to a mistaken one, for errors.
 *
 * @module
 */

/** Names compared at most, so that an error stays quick in a checkpoint of 100,000 tensors. */
const MAX_COMPARED = 5000;

/**
 * The names most like `wanted`: those that share the longest ends with it.
 *
 * @param limit Most names given back.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { nearestNames } from "./nearest.ts";
 *
 * assertEquals(nearestNames("layers.0.up.weight", ["norm", "model.layers.0.up.weight"], 1), ["model.layers.0.up.weight"]);
 * ```
 */
export function nearestNames(wanted: string, names: Iterable<string>, limit = 2): readonly string[] {
  const scored: { readonly name: string; readonly score: number }[] = [];
  for (const name of names) {
    if (scored.length === MAX_COMPARED) break;
    scored.push({ name, score: commonStart(wanted, name) + commonEnd(wanted, name) });
  }
  return scored.filter(({ score }) => score >= wanted.length / 2).sort((x, y) => y.score - x.score).slice(0, limit)
    .map(({ name }) => name);
}

function commonStart(x: string, y: string): number {
  let length = 0;
  while (length < x.length && length < y.length && x[length] === y[length]) length++;
  return length;
}

function commonEnd(x: string, y: string): number {
  let length = 0;
  while (length < x.length && length < y.length && x.at(-1 - length) === y.at(-1 - length)) length++;
  return length;
}
