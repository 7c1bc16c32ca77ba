/**
 * A run in shapes, for the stages that say what memory they take on a whole model.
 *
 * @module
 */
import { MOST_KEPT_ELEMENTS } from "../../plugins/factorization/dbf_admm/sessions.ts";
import type { ModelDescription } from "../model/types.ts";
import type { LayerShape, RunShape } from "../stream/stage.ts";

/**
 * Gathers a run's shape.
 *
 * @param layers Compressed layers with their middle dimensions.
 * @param calibration Windows and tokens of each; none for a run without.
 * @param bytesOf Peak bytes of the factorization of a layer.
 */
export function runShape<L extends LayerShape & { readonly rank: number }>(
  model: ModelDescription,
  layers: readonly L[],
  calibration: RunShape["calibration"] | undefined,
  bytesOf: (layer: L) => number,
): RunShape {
  // Sessions of small layers outlive them, one set for each shape; large layers hold theirs one after the other.
  const shapes = new Map(layers.map((layer) => [`${layer.rows} ${layer.cols} ${layer.rank}`, layer]));
  let kept = 0, large = 0;
  for (const layer of shapes.values()) {
    const bytes = bytesOf(layer);
    if (layer.rows * layer.cols <= MOST_KEPT_ELEMENTS) kept += bytes;
    else large = Math.max(large, bytes);
  }
  return { model, layers, calibration: calibration ?? { windows: 0, tokens: 0 }, factorizationBytes: kept + large };
}

/** Windows as {@linkcode RunShape} has them. */
export function windowsOf(calibration: readonly Int32Array[]): RunShape["calibration"] {
  return { windows: calibration.length, tokens: calibration[0]?.length ?? 0 };
}
