/**
 * A run in shapes, for the stages that say what memory they take on a whole model.
 *
 * @module
 */
import { FIXED_BYTES } from "../../plugins/factorization/dbf_admm/estimate.ts";
import { MOST_KEPT_ELEMENTS, MOST_KEPT_SHAPES } from "../../plugins/factorization/dbf_admm/sessions.ts";
import { type CalibrationWindows, windowsWithin } from "../calibrate/windows.ts";
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
  // Sessions of small layers outlive them, one set for each shape, the latest of them, until a large layer wants their room.
  const shapes = new Map(layers.map((layer) => [`${layer.rows} ${layer.cols} ${layer.rank}`, layer]));
  const bytes = [...shapes.values()].map((layer) => ({ layer, bytes: bytesOf(layer) }));
  const kept = bytes.filter(({ layer }) => layer.rows * layer.cols <= MOST_KEPT_ELEMENTS).map((each) => each.bytes)
    .sort((x, y) => y - x).slice(0, MOST_KEPT_SHAPES);
  // what each estimate says of the process as a whole is there once
  const keptBytes = kept.reduce((sum, each) => sum + each, 0) - FIXED_BYTES * Math.max(0, kept.length - 1);
  return {
    model,
    layers,
    calibration: calibration ?? { windows: 0, tokens: 0 },
    factorizationBytes: { kept: Math.max(0, keptBytes), largest: Math.max(0, ...bytes.map((each) => each.bytes)) },
  };
}

/** Windows as {@linkcode RunShape} has them. */
export function windowsOf({ text, own }: CalibrationWindows): RunShape["calibration"] {
  return { windows: text.length + own.length, tokens: (text[0] ?? own[0])?.length ?? 0 };
}

/** The same run for a stage that is given at most so many calibration tokens. */
export function withinTokens(run: RunShape, most: number): RunShape {
  const { windows, tokens } = run.calibration;
  return windows === 0 ? run : { ...run, calibration: { windows: windowsWithin(windows, tokens, most), tokens } };
}
