/**
 * What `plan` answers: plain data, ready for JSON.
 *
 * @module
 */
import type { DenseTensor } from "./inventory.ts";
import type { FactorsKind, LayerShape, RunShape, StageEstimate, StageKind } from "../stream/stage.ts";

/** A stage as planning sees it: a name and a price. */
export interface PlannedStage {
  readonly kind: StageKind;
  readonly name: string;
  /** Bytes and operations for one layer, options already bound. */
  readonly estimate: (layer: LayerShape & { readonly rank: number; readonly method?: string }) => StageEstimate;
  /** Peak bytes on a whole run, where the largest layer's estimate does not say it. */
  readonly peakBytesOf?: (run: RunShape) => number;
  /** Useful operations on a whole run, where the sum of the layers' estimates does not say it. */
  readonly flopsOf?: (run: RunShape) => number;
}

/** One line of the table. */
export interface PlannedLayer extends LayerShape {
  /** Middle dimension k; 0 for kinds without one. */
  readonly rank: number;
  /** Name of the candidate that the allocation chose instead of the run's factorization. */
  readonly method?: string;
  /** Kind of its factors. */
  readonly kind: FactorsKind;
  /** Why the allocation chose it. */
  readonly reason: string;
  /** Bits of signs, k(n+m)/(nm), or of codes. */
  readonly signBitsPerWeight: number;
  /** With 16-bit scales and padding. */
  readonly effectiveBitsPerWeight: number;
  /** Bytes in the artefact: packed signs or codes, and f32 scales. */
  readonly packedBytes: number;
  /** Most bytes held while any layer stage works on it. */
  readonly peakBytes: number;
  /** Operations of all its stages. */
  readonly flops: number;
}

/** A whole run, planned. All sizes in bytes. */
export interface PlanReport {
  readonly architecture: string;
  readonly blocks: number;
  /** Elements of all tensors. */
  readonly parameters: number;
  /** Elements of the layers that are compressed. */
  readonly compressedParameters: number;
  readonly dtype: "f32" | "f16";
  /** What was asked for, or found for a size. */
  readonly bitsPerWeight: number;
  /** Means over the compressed layers, weighted by their elements; 0 without layers. */
  readonly signBitsPerWeight: number;
  readonly effectiveBitsPerWeight: number;
  readonly layers: readonly PlannedLayer[];
  readonly dense: readonly (DenseTensor & { readonly elements: number })[];
  /** Bytes of the committed artefact (packed layers and journal). */
  readonly artefactBytes: number;
  /** Bytes of the exported model by type of what stays dense. */
  readonly exportBytes: { readonly f32: number; readonly f16: number };
  /** Bytes of the same model exported without compression. */
  readonly uncompressedExportBytes: { readonly f32: number; readonly f16: number };
  /** Most bytes of working state, removed when the run is done. */
  readonly scratchBytes: number;
  /** Free disk that the run needs: artefact, export of `dtype`, working state. */
  readonly diskBytes: number;
  /** Most resident memory, the process itself included. */
  readonly peakBytes: number;
  /** Bytes of a GPU's memory that activations, training state and caches may fill; absent on the CPU. */
  readonly deviceMemory?: number;
  /** What makes it so. */
  readonly peak: { readonly stage: string; readonly subject: string; readonly processBytes: number };
  /** Most bytes and all operations by stage. */
  readonly stages: readonly {
    readonly kind: StageKind;
    readonly name: string;
    readonly peakBytes: number;
    /** Whether the bytes are of the whole run and not of its largest layer. */
    readonly whole: boolean;
    readonly flops: number;
    readonly seconds: number;
  }[];
  readonly flops: number;
  /** At `gflops` operations a nanosecond; 0 where no stage says what it needs. */
  readonly seconds: number;
  readonly gflops: number;
}
