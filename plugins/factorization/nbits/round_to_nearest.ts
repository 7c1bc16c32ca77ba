/**
 * Factorization `round-to-nearest`.
 *
 * @module
 */
import * as v from "valibot";
import { defineStage, type Stage } from "../../../pipeline/stream/stage.ts";
import { clippedGrid, fullGrid } from "./grid.ts";
import { nbitsEntries, nbitsStores, roundingEstimate } from "./options.ts";
import { roundPanels } from "./round_panels.ts";

const options = v.strictObject({
  ...nbitsEntries,
  /** Narrower ranges that are tried for each group, by the importance-weighted error; 0 is plain rounding, from the smallest to the largest entry. */
  clipSteps: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(100)), 0),
});

/** Every weight to the nearest of 2^bits values, evenly spaced from its group's smallest to its largest entry. */
export const roundToNearest: Stage<"factorization", typeof options> = defineStage({
  kind: "factorization",
  scope: "layer",
  name: "round-to-nearest",
  version: "1.0.0",
  description: "Groups of weights rounded to 2, 3, 4 or 8 bits between their smallest and largest entry.",
  options,
  stores: nbitsStores,
  estimate: (layer, { clipSteps }) => roundingEstimate(layer, clipSteps > 0 ? 12 : 8, 12 * (1 + clipSteps)),
  run: (input, settings, context) =>
    roundPanels(
      input,
      settings,
      context,
      "round-to-nearest",
      (g, w, d) =>
        settings.clipSteps === 0 ? fullGrid(g, w, 2, settings) : clippedGrid(g, w, d, 2, settings, settings.clipSteps),
    ),
});
