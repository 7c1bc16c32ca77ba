/**
 * Which weights of a decoder are compressed and which stay dense.
 *
 * @module
 */
import { neededTensors } from "../model/check.ts";
import { truncateBlocks } from "../model/describe.ts";
import { type TableBits, tableBits, type TableOptions } from "../model/tables.ts";
import type { ModelDescription } from "../model/types.ts";
import type { LayerShape, StageFilter } from "../stream/stage.ts";

/** What the user selects among the linears of the blocks. */
export interface Selection {
  /** Regular expressions; a weight whose name matches one stays dense. */
  readonly keep?: readonly string[];
  /** Regular expressions; where given, only weights that match one are compressed. */
  readonly include?: readonly string[];
  /** First and last block of the model that is made, both included; other blocks are left out of it. */
  readonly blocks?: readonly [number, number];
  /** Filters of the stages that must all accept a layer. */
  readonly filters?: readonly StageFilter[];
  /** Bits of embedding and head in the export. */
  readonly tables?: TableOptions;
  /** Filter of the factorization of a layer, by weight name. */
  readonly filterOf?: (name: string) => StageFilter | undefined;
}

/** A tensor that stays as it is. */
export interface DenseTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** Bits in the export, where it is a table stored in fewer. */
  readonly bits?: TableBits;
}

/** The weights of a run. */
export interface Inventory {
  /** The model that is made: all blocks, or the selected ones. */
  readonly model: ModelDescription;
  /** Linears to compress, in the order of the blocks. */
  readonly layers: readonly LayerShape[];
  /** Everything else: embedding, norms, biases, kept linears, a separate head. */
  readonly dense: readonly DenseTensor[];
}

/**
 * Sorts a decoder's tensors into layers to compress and tensors to keep. By default all linears of all blocks are
 * compressed; embedding and head never are.
 *
 * @throws {SyntaxError} when a regular expression is malformed.
 * @throws {RangeError} when the blocks are not within the model, or no layer is left to compress although some were asked
 * for with `include`.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { describeModel } from "../model/describe.ts";
 * import { inventory } from "./inventory.ts";
 *
 * const model = describeModel({
 *   model_type: "llama", hidden_size: 64, intermediate_size: 160, num_hidden_layers: 2, num_attention_heads: 4,
 *   vocab_size: 320,
 * });
 * assertEquals(inventory(model).layers.length, 14);
 * assertEquals(inventory(model, { keep: ["k_proj"], blocks: [1, 1] }).layers.length, 6);
 * ```
 */
export function inventory(model: ModelDescription, selection: Selection = {}): Inventory {
  const made = selection.blocks === undefined ? model : truncateBlocks(model, selection.blocks);
  const keep = (selection.keep ?? []).map((pattern) => compile(pattern, "--keep"));
  const include = selection.include?.map((pattern) => compile(pattern, "include"));
  const accepts = (selection.filters ?? []).map(compileFilter);
  const layers: LayerShape[] = [];
  for (const { index: block, linears } of made.blocks) {
    for (const { role, weight: name, rows, cols } of linears) {
      const layer = { name, block, role, rows, cols };
      if (keep.some((pattern) => pattern.test(name))) continue;
      if (include !== undefined && !include.some((pattern) => pattern.test(name))) continue;
      const own = selection.filterOf?.(name);
      if (own !== undefined && !compileFilter(own)(layer)) continue;
      if (accepts.every((accept) => accept(layer))) layers.push(layer);
    }
  }
  if (layers.length === 0 && include !== undefined) {
    throw new RangeError(
      `Cannot compress as no layer is selected: current value of include is ${selection.include!.join(" ")}; ` +
        `layers are called like ${made.blocks[0].linears[0].weight}`,
    );
  }
  const compressed = new Set(layers.map(({ name }) => name));
  const dense = neededTensors(made).filter(({ name }) => !compressed.has(name))
    .map(({ name, shape }) => ({ name, shape }));
  return { model: made, layers, dense: withTableBits(made, dense, selection.tables ?? {}) };
}

/**
 * Dense tensors with the bits of embedding and head.
 *
 * @throws as `tableBits` does.
 */
export function withTableBits(
  model: ModelDescription,
  dense: readonly DenseTensor[],
  tables: TableOptions,
): DenseTensor[] {
  const bits = tableBits(model, tables);
  return dense.map(({ name, shape }) => bits.has(name) ? { name, shape, bits: bits.get(name) } : { name, shape });
}

function compile(pattern: string, field: string): RegExp {
  try {
    return new RegExp(pattern);
  } catch (cause) {
    throw new SyntaxError(
      `Cannot use ${field} as a regular expression: current value is ${JSON.stringify(pattern)} ` +
        `(a dot must be written \\., a star needs something before it: '.*')`,
      { cause },
    );
  }
}

/**
 * What a stage's filter accepts.
 *
 * @throws {SyntaxError} when a regular expression is malformed.
 */
export function compileFilter(filter: StageFilter): (layer: LayerShape) => boolean {
  const include = filter.include === undefined ? undefined : compile(filter.include, "a stage's filter.include");
  const exclude = filter.exclude === undefined ? undefined : compile(filter.exclude, "a stage's filter.exclude");
  return ({ name, rows, cols }) =>
    (include?.test(name) ?? true) && !(exclude?.test(name) ?? false) && rows * cols >= (filter.minElements ?? 0);
}
