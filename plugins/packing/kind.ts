/**
 * What packing knows of one kind of factors.
 *
 * @module
 */
import type { Factors, LayerJob, PackedLayer } from "../../pipeline/stream/stage.ts";

/** Packs factors of one kind, and unpacks them again. */
export interface PackedKind<F extends Factors = Factors> {
  /** @throws {RangeError} when the factors are not those of the job's weight, or a scale is not finite. */
  pack(job: LayerJob, factors: F): PackedLayer;
  /**
   * @param name Of the weight, for errors.
   * @throws {TypeError} when a tensor is missing or of another type.
   * @throws {RangeError} when an attribute or a size is impossible.
   */
  unpack(name: string, rows: number, cols: number, layer: PackedLayer): F;
}
