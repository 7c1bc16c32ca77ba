/**
 * Checks of what callers feed and ask for, shared by both bindings.
 *
 * @module
 */
import type { RunOptions, Tensor, ValueInfo } from "./types.ts";

/** The single dimension of a {@linkcode ValueInfo} whose rank the graph does not say. */
export const UNKNOWN_RANK = "...";

/**
 * Checks feeds against a session's inputs.
 *
 * @throws {TypeError} when a feed is missing, unknown, or of the wrong type, rank or fixed dimension.
 */
export function checkFeeds(
  session: string,
  inputs: readonly ValueInfo[],
  feeds: Readonly<Record<string, Tensor>>,
): void {
  let fed = 0;
  for (const input of inputs) {
    const tensor = feeds[input.name];
    if (tensor === undefined) {
      throw new TypeError(`Cannot run ${session}: input "${input.name}" is not fed; its inputs are ${list(inputs)}`);
    }
    fed++;
    checkValue(session, "feed", input, tensor);
  }
  const names = Object.keys(feeds);
  if (names.length !== fed) {
    const unknown = names.filter((name) => !inputs.some((input) => input.name === name));
    throw new TypeError(`Cannot run ${session} with feed "${unknown[0]}": its inputs are ${list(inputs)}`);
  }
}

/**
 * The outputs that a run computes, in the session's order.
 *
 * @throws {TypeError} when a name in `outputs` or `into` is unknown, or a tensor of `into` has the wrong type or rank.
 */
export function chooseOutputs(
  session: string,
  outputs: readonly ValueInfo[],
  options: RunOptions,
): readonly ValueInfo[] {
  for (const [name, tensor] of Object.entries(options.into ?? {})) {
    const output = outputs.find((candidate) => candidate.name === name);
    if (output === undefined) {
      throw new TypeError(`Cannot run ${session} into "${name}": its outputs are ${list(outputs)}`);
    }
    checkValue(session, "into tensor", output, tensor);
  }
  if (options.outputs === undefined) return outputs;
  const chosen = options.outputs.map((name) => {
    const output = outputs.find((candidate) => candidate.name === name);
    if (output === undefined) {
      throw new TypeError(`Cannot run ${session} for output "${name}": its outputs are ${list(outputs)}`);
    }
    return output;
  });
  for (const name of Object.keys(options.into ?? {})) {
    if (!options.outputs.includes(name)) {
      throw new TypeError(
        `Cannot run ${session} into "${name}": it is not among the outputs asked for, ${options.outputs.join(", ")}`,
      );
    }
  }
  return chosen;
}

function checkValue(session: string, kind: string, info: ValueInfo, tensor: Tensor): void {
  if (tensor.dtype !== info.dtype) {
    throw new TypeError(
      `Cannot run ${session}: ${kind} "${info.name}" must be ${info.dtype}, current value is ${tensor.dtype}`,
    );
  }
  const expected = info.shape;
  const actual = tensor.shape;
  if (expected.length === 1 && expected[0] === UNKNOWN_RANK) return;
  let fits = expected.length === actual.length;
  for (let axis = 0; fits && axis < expected.length; axis++) {
    const dimension = expected[axis];
    fits = typeof dimension === "string" || dimension < 0 || dimension === actual[axis];
  }
  if (!fits) {
    throw new TypeError(
      `Cannot run ${session}: ${kind} "${info.name}" must have shape [${expected.join(", ")}], current value has [${
        actual.join(", ")
      }]`,
    );
  }
}

function list(values: readonly ValueInfo[]): string {
  return values.map((value) => `"${value.name}"`).join(", ") || "none";
}
