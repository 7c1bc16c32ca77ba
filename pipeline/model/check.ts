/**
 * Whether a checkpoint has what its description says, and nothing that it leaves out.
 *
 * @module
 */
import { nearestNames } from "../checkpoint/nearest.ts";
import type { CheckpointReader } from "../checkpoint/types.ts";
import { describeModel } from "./describe.ts";
import type { ModelDescription } from "./types.ts";

/** A tensor that a decoder needs. */
export interface NeededTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** Index of its block; absent for embedding, final norm and head. */
  readonly block?: number;
}

/** Most problems that one error lists. */
const MAX_LISTED = 8;

/** Tensors in blocks that carry nothing a decoder needs: scales of 8-bit weights, tables that are computed. */
const IGNORED = /_scale(_inv)?$|rotary_emb\.inv_freq$/;

/**
 * Every tensor of a decoder with its shape: embedding, blocks in order (norms, linears, biases), final norm, and the head
 * where it is separate.
 */
export function neededTensors(model: ModelDescription): readonly NeededTensor[] {
  const { hiddenSize, vocabularySize, headDim, heads, kvHeads } = model;
  const needed: NeededTensor[] = [{ name: model.embedding, shape: [vocabularySize, hiddenSize] }];
  for (const { index: block, norms, linears, qkNormScope } of model.blocks) {
    const queryNorm = qkNormScope === "full" ? heads * headDim : headDim;
    const keyNorm = qkNormScope === "full" ? kvHeads * headDim : headDim;
    for (const name of [norms.beforeAttention, norms.afterAttention, norms.beforeMlp, norms.afterMlp]) {
      if (name !== undefined) needed.push({ name, shape: [hiddenSize], block });
    }
    if (norms.query !== undefined) needed.push({ name: norms.query, shape: [queryNorm], block });
    if (norms.key !== undefined) needed.push({ name: norms.key, shape: [keyNorm], block });
    for (const { weight, bias, rows, cols } of linears) {
      needed.push({ name: weight, shape: [rows, cols], block });
      if (bias !== undefined) needed.push({ name: bias, shape: [rows], block });
    }
  }
  needed.push({ name: model.finalNorm, shape: [hiddenSize] });
  if (!model.tiedHead) needed.push({ name: model.head, shape: [vocabularySize, hiddenSize] });
  return needed;
}

/**
 * Checks a checkpoint against a description: every tensor exists with the right shape and a readable type, and no block
 * has tensors that the description does not know (a bias, say, that the graph would silently leave out).
 *
 * @throws {TypeError} that lists tensors with expected and found shapes.
 */
export function checkDescription(
  model: ModelDescription,
  checkpoint: Pick<CheckpointReader, "directory" | "tensors" | "tensor">,
): void {
  const problems: string[] = [];
  const known = new Set<string>();
  for (const { name, shape } of neededTensors(model)) {
    known.add(name);
    const found = checkpoint.tensors.get(name);
    if (found === undefined) {
      problems.push(`"${name}" [${shape}]: ${absence(checkpoint, name)}`);
    } else if (found.shape.length !== shape.length || found.shape.some((size, i) => size !== shape[i])) {
      problems.push(`"${name}": expected [${shape}], current value is [${found.shape}]`);
    }
  }
  const stem = model.embedding.slice(0, -"embed_tokens.weight".length);
  const described = new Set(model.blocks.map(({ index }) => index));
  for (const name of checkpoint.tensors.keys()) {
    if (known.has(name) || IGNORED.test(name) || !name.startsWith(`${stem}layers.`)) continue;
    const block = Number(name.slice(stem.length + "layers.".length).split(".", 1)[0]);
    if (described.has(block)) {
      problems.push(`"${name}": not part of a ${model.architecture} decoder as config.json describes it`);
    }
  }
  if (problems.length === 0) return;
  const more = problems.length > MAX_LISTED ? `\n  and ${problems.length - MAX_LISTED} more` : "";
  throw new TypeError(
    `Cannot use ${checkpoint.directory} as a ${model.architecture} decoder as its tensors differ from config.json:\n  ` +
      problems.slice(0, MAX_LISTED).join("\n  ") + more,
  );
}

function absence(checkpoint: Pick<CheckpointReader, "tensors" | "tensor">, name: string): string {
  try {
    checkpoint.tensor(name);
  } catch (error) {
    // A tensor of integers is there, but not as a weight.
    if (error instanceof TypeError) return error.message;
  }
  const near = nearestNames(name, checkpoint.tensors.keys(), 1);
  return `missing${near.length > 0 ? `; the nearest name is "${near[0]}"` : ""}`;
}

/**
 * Describes an opened checkpoint and checks it: {@linkcode describeModel} and {@linkcode checkDescription} in one.
 *
 * @throws {TypeError} and {RangeError} as they do.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { openCheckpoint } from "../checkpoint/open.ts";
 * import { describeCheckpoint } from "./check.ts";
 *
 * using checkpoint = await openCheckpoint("tests/fixtures/tiny-llama");
 * assertEquals(describeCheckpoint(checkpoint).blocks.length, 4);
 * ```
 */
export function describeCheckpoint(checkpoint: CheckpointReader): ModelDescription {
  const model = describeModel(checkpoint.config, checkpoint.tensors, checkpoint.generationConfig);
  checkDescription(model, checkpoint);
  return model;
}
