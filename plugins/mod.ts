/**
 * All built-in stages: a plain list, each made with `defineStage` like a third party's.
 *
 * @module
 */
import type { AnyStage } from "../pipeline/recipe/plugin_loader.ts";
import { uniformAllocation } from "./allocation/uniform.ts";
import { noImportance } from "./importance/none.ts";
import { bits32 } from "./packing/bits32.ts";

/** Built-in stages; recipes name them, plugins may not take their names. */
export const builtinStages: readonly AnyStage[] = [
  noImportance,
  uniformAllocation,
  bits32,
];
