/**
 * The committed result of a run: packed layers in safetensors files with a manifest. `export` turns it into any target later.
 *
 * @module
 */
import type { PackedLayer } from "../stream/stage.ts";

/** One committed tensor or layer. */
export interface ArtefactEntry {
  /** The checkpoint's name of the weight, e.g. `"model.layers.3.mlp.up_proj.weight"`. */
  readonly name: string;
  /** `"dbf"`, `"dense"`, `"nbits"` or a plugin's own. */
  readonly kind: string;
  /** Shape of the weight that it stands for. */
  readonly shape: readonly number[];
  /** Raised when tuning rewrites the layer; the newest counts. */
  readonly generation: number;
  readonly attributes: Readonly<Record<string, string | number | boolean>>;
  /** Bytes on disk. */
  readonly bytes: number;
}

/** Read access to committed layers, or to a checkpoint seen as one whose layers are all dense. */
export interface ArtefactReader extends Disposable {
  readonly directory: string;
  /** config.json of the model, parsed. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly entries: ReadonlyMap<string, ArtefactEntry>;
  /** Files to copy beside an export: tokenizer.json and so on, absolute paths. */
  readonly companions: readonly string[];
  /** Packed tensors of a compressed layer (small: a sixteenth of the weight or less). */
  layer(name: string): Promise<PackedLayer>;
  /** f32 rows `[start, end)` of a dense tensor; slices of the first dimension. */
  readRows(name: string, start: number, end: number): Promise<Float32Array>;
}
