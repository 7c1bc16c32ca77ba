/**
 * What a finished compression says about itself.
 *
 * @module
 */
import type { CommitRecord } from "./artefact/journal.ts";
import type { StorageOf } from "./plan/sizes.ts";
import { storedBitsPerWeight } from "./plan/storage.ts";
import type { LayerJob } from "./stream/stage.ts";

/** One compressed layer. */
export interface CompressedLayer {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  /** Middle dimension; 0 for kinds without one. */
  readonly rank: number;
  /** Why the allocation chose it. */
  readonly reason: string;
  readonly kind: string;
  readonly generation: number;
  /** Bytes on disk. */
  readonly bytes: number;
  /** Relative weighted squared error, where the packing recorded it. */
  readonly weightedError?: number;
}

/** What {@linkcode compress} returns. */
export interface CompressReport {
  readonly out: string;
  /** Directory of the exported model. */
  readonly exported: string;
  readonly layers: readonly CompressedLayer[];
  /** Layers that an earlier, interrupted run had committed. */
  readonly resumedLayers: number;
  /** Tensors kept dense. */
  readonly denseTensors: number;
  /** Mean bits of signs and codes per weight over the compressed layers, weighted by elements; 0 without layers. */
  readonly bitsPerWeight: number;
  /** With 16-bit scales and padding. */
  readonly effectiveBitsPerWeight: number;
  /** Bytes of the artefact's tensors, dense ones included. */
  readonly artefactBytes: number;
  /** Mean of the layers' weighted errors; `undefined` where none was recorded. */
  readonly meanWeightedError?: number;
  /** Most bytes that were leased at once. */
  readonly peakLeasedBytes: number;
  readonly elapsedMs: number;
}

/** Sums up committed layers. */
export function summarize(parts: {
  readonly storageOf: StorageOf;
  readonly out: string;
  readonly exported: string;
  readonly jobs: readonly LayerJob[];
  readonly reasons: ReadonlyMap<string, { readonly reason: string }>;
  readonly committed: ReadonlyMap<string, CommitRecord>;
  readonly resumedLayers: number;
  readonly denseTensors: number;
  readonly peakLeasedBytes: number;
  readonly elapsedMs: number;
}): CompressReport {
  const { jobs, committed, reasons, storageOf } = parts;
  const storages = new Map(jobs.map((job) => [job.name, storageOf(job, job.rank)]));
  const layers = jobs.map(({ name, rows, cols, rank }): CompressedLayer => {
    const { kind, generation, bytes, attributes } = committed.get(name)!;
    const { weightedError } = attributes;
    return {
      name,
      rows,
      cols,
      rank,
      reason: reasons.get(name)?.reason ?? "",
      kind,
      generation,
      bytes,
      ...(typeof weightedError === "number" ? { weightedError } : {}),
    };
  });
  const elements = layers.reduce((total, { rows, cols }) => total + rows * cols, 0);
  const mean = (bits: (layer: CompressedLayer) => number) =>
    elements === 0 ? 0 : layers.reduce((total, layer) => total + bits(layer) * layer.rows * layer.cols, 0) / elements;
  const errors = layers.flatMap(({ weightedError }) => weightedError ?? []);
  return {
    out: parts.out,
    exported: parts.exported,
    layers,
    resumedLayers: parts.resumedLayers,
    denseTensors: parts.denseTensors,
    bitsPerWeight: mean(({ name, rows, cols }) => storages.get(name)!.codeBits / (rows * cols)),
    effectiveBitsPerWeight: mean((layer) => storedBitsPerWeight(layer, storages.get(layer.name)!)),
    artefactBytes: [...committed.values()].reduce((total, { bytes }) => total + bytes, 0),
    ...(errors.length > 0 ? { meanWeightedError: errors.reduce((a, b) => a + b, 0) / errors.length } : {}),
    peakLeasedBytes: parts.peakLeasedBytes,
    elapsedMs: parts.elapsedMs,
  };
}
