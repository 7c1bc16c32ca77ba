/**
 * Working state on disk while a run lasts.
 *
 * @module
 */
import type { LayerShape } from "../stream/stage.ts";

/** What of a run keeps working state. */
export interface ScratchUse {
  /** Calibration tokens; 0 for a run on weights alone. */
  readonly calibrationTokens: number;
  /** Those of them whose activations are in files while blocks are made; none where they stay on a GPU. */
  readonly blockTokens: number;
  /** Those whose activations a distillation keeps in files at once. */
  readonly teacherTokens: number;
  /** Floats of a token's state between blocks. */
  readonly hiddenSize: number;
  /** Whether the whole model is tuned after its blocks. */
  readonly distillation: boolean;
}

/** Files of block inputs at once: before and after a block of the full-precision and the compressed chain. */
const CHAIN_FILES = 4;
/** The same of a distillation: before and after a block of the full-precision chain. */
const TEACHER_FILES = 2;
/** f32 vectors of a sign in training: the latent and its two moments. */
const STATE_VECTORS = 3;
/** Copies of these: the working one beyond what fits the device, the last saved one, and the next while it is written. */
const STATE_COPIES = 3;

/**
 * Most bytes of working state: importance, block inputs, latents, and what a distillation saves.
 *
 * @param layers Compressed layers with their middle dimensions and packed bytes.
 */
export function scratchBytes(
  layers: readonly (LayerShape & { readonly rank: number; readonly packedBytes: number })[],
  { calibrationTokens, blockTokens, teacherTokens, hiddenSize, distillation }: ScratchUse,
): number {
  if (calibrationTokens === 0) return 0;
  const chained = Math.max(CHAIN_FILES * blockTokens, TEACHER_FILES * teacherTokens);
  let bytes = 4 * chained * hiddenSize;
  for (const { rows, cols, rank, packedBytes } of layers) {
    bytes += 4 * (rows + cols);
    const signs = rank * (rows + cols);
    if (distillation) bytes += 2 * signs + packedBytes + STATE_COPIES * STATE_VECTORS * 4 * signs;
  }
  return bytes;
}
