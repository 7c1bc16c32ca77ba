/**
 * Which windows a training step sees.
 *
 * @module
 */
import { seededRandom } from "../evaluate/sample.ts";

/** Numbers the epochs of one seed apart. */
const EPOCH_STRIDE = 0x9e3779b1;

/** Indices of the windows of one training step. */
export type BatchOrder = (step: number) => number[];

/**
 * Full batches in a new order every epoch; any step can be asked for, so that a run can resume.
 *
 * @param windows How many there are.
 * @param batch Windows a step, at most `windows`.
 * @param seed The same seed gives the same order.
 */
export function shuffledBatches(windows: number, batch: number, seed: number): BatchOrder {
  const perEpoch = Math.floor(windows / batch);
  let current = -1;
  let order: number[] = [];
  return (step) => {
    const epoch = Math.floor(step / perEpoch);
    if (epoch !== current) {
      current = epoch;
      order = Array.from({ length: windows }, (_, index) => index);
      const random = seededRandom((seed + Math.imul(epoch + 1, EPOCH_STRIDE)) >>> 0);
      for (let last = windows - 1; last > 0; last--) {
        const other = Math.floor(random() * (last + 1));
        [order[last], order[other]] = [order[other], order[last]];
      }
    }
    const at = step % perEpoch;
    return order.slice(at * batch, (at + 1) * batch);
  };
}
