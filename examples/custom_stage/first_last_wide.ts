/**
 * A third-party stage: an allocation that gives the first and last blocks more bits, as they hurt most when squeezed,
 * and takes them from the blocks between, so that the mean stays what was asked for.
 *
 * ```sh
 * deno task dbf compress MODEL OUT --bits 1.5 --plugin ./examples/custom_stage/first_last_wide.ts \
 *   --set allocation=first-last-wide
 * ```
 *
 * @module
 */
import * as v from "valibot";
import { defineStage, type LayerShape, rankForBits } from "../../mod.ts";

const options = v.strictObject({
  /** Bits of the outer blocks relative to the inner ones. */
  ratio: v.optional(v.pipe(v.number(), v.minValue(1), v.maxValue(8)), 1.5),
  /** Blocks at each end that count as outer. */
  blocks: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1)), 1),
});

const elements = (layers: readonly LayerShape[]) => layers.reduce((total, { rows, cols }) => total + rows * cols, 0);

export default defineStage({
  kind: "allocation",
  scope: "model",
  name: "first-last-wide",
  version: "1.0.0",
  description: "More bits for the first and last blocks, fewer between; the mean stays.",
  options,
  estimate: () => ({ peakBytes: 0, flops: 0 }),
  run({ layers, bitsPerWeight }, { ratio, blocks }) {
    const indices = layers.map(({ block }) => block);
    const [first, last] = [Math.min(...indices), Math.max(...indices)];
    const isOuter = ({ block }: LayerShape) => block < first + blocks || block > last - blocks;
    // inner·E_inner + ratio·inner·E_outer = bits·(E_inner + E_outer)
    const outer = elements(layers.filter(isOuter));
    const all = elements(layers);
    const inner = bitsPerWeight * all / (all - outer + ratio * outer);
    return Promise.resolve(
      new Map(layers.map((layer) => {
        const bits = isOuter(layer) ? inner * ratio : inner;
        const reason = `${isOuter(layer) ? "outer" : "inner"} block, ${bits.toFixed(3)} bits`;
        return [layer.name, { rank: rankForBits(layer, bits), reason }];
      })),
    );
  },
});
