/**
 * How a linear layer of some kind becomes nodes of the exported graph.
 *
 * @module
 */
import type { ArtefactEntry, ArtefactReader } from "../../../pipeline/artefact/types.ts";
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import type { LinearDescription } from "../../../pipeline/model/types.ts";

/** One linear layer to export. */
export interface ExportedLayer {
  readonly linear: LinearDescription;
  readonly entry: ArtefactEntry;
  readonly source: ArtefactReader;
  /** Type of activations and products. */
  readonly dtype: "float32" | "float16";
}

/**
 * Adds `x·Wᵀ` (the bias comes after).
 *
 * @param x `[…, cols]` of `layer.dtype`.
 * @returns `[…, rows]` of the same type.
 */
export type LayerBuilder = (g: Graph, layer: ExportedLayer, x: Value) => Value;
