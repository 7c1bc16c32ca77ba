/**
 * Flags of `plan` and `compress`: they only build a recipe.
 *
 * @module
 */
import { builtinStages } from "../../plugins/mod.ts";
import { parseRecipe, readRecipe } from "../recipe/parse.ts";
import type { Recipe } from "../recipe/schema.ts";
import { TABLE_BITS, type TableOptions } from "../model/tables.ts";
import { usageError } from "./errors.ts";
import type { FlagTable, FlagValues } from "./flags.ts";
import { setField, settingKind } from "./set_field.ts";

/** Flags that choose where and with how much of the machine to compute. */
export const COMPUTE_FLAGS: FlagTable = {
  provider: { kind: "text", choices: ["cpu", "cuda", "webgpu"], help: "where to compute (default cpu)" },
  threads: { kind: "integer", min: 1, help: "threads inside an operator (default one a core; on a GPU 1)" },
};

/** Flags that load stages of others. */
export const PLUGIN_FLAGS: FlagTable = {
  plugin: { kind: "list", value: "FILE|npm:NAME", help: "load stages of others" },
  "plugin-sandbox": { kind: "switch", help: "run them in workers without permissions (default: in this process)" },
  "plugin-deadline": { kind: "number", min: 0, value: "SECONDS", help: "most that one call may take (default 21600)" },
};

/** Flags that choose the bits of embedding and head in an exported model. */
export const TABLE_FLAGS: FlagTable = {
  embedding: { kind: "text", choices: ["16", "8", "4"], help: "bits of the embedding, and of a head tied to it" },
  head: { kind: "text", choices: ["16", "8", "4"], help: "bits of a head that is a tensor of its own" },
};

/** Bits that {@linkcode TABLE_FLAGS} were given. */
export function tablesFromFlags(flags: FlagValues): TableOptions {
  const bits = (name: string) => TABLE_BITS.find((each) => String(each) === flags.text(name));
  return { embedding: bits("embedding"), head: bits("head") };
}

/** Flags that build a recipe. */
export const RECIPE_FLAGS: FlagTable = {
  bits: { kind: "number", value: "B", help: "mean sign bits per weight over the compressed layers (default 2)" },
  size: { kind: "bytes", help: "largest exported model, e.g. 900MB, instead of --bits" },
  calibration: {
    kind: "text",
    value: "FILE",
    help: "text, .jsonl, or token ids (.json, .i32) that importance and tuning are measured on; self: the model's own",
  },
  from: {
    kind: "text",
    value: "DIR",
    help: "go on from the layers of this finished run: with --calibration, they are only distilled further",
  },
  keep: { kind: "list", value: "REGEX", help: "leave layers dense whose weight name matches" },
  blocks: { kind: "text", value: "FIRST-LAST", help: "make a model of these decoder blocks only, e.g. 0-1" },
  dtype: { kind: "text", choices: ["f32", "f16"], help: "type of what stays dense and of activations (default f32)" },
  ...TABLE_FLAGS,
  effort: { kind: "text", choices: ["fast", "balanced", "best"], help: "how much work for quality (default balanced)" },
  memory: { kind: "bytes", help: "bound of what is in flight (default 4GiB)" },
  parallel: { kind: "integer", min: 1, help: "layers in flight at once (default 1)" },
  seed: { kind: "integer", min: 0, help: "seed of everything random (default 0)" },
  ...COMPUTE_FLAGS,
  "device-memory": {
    kind: "bytes",
    help: "GPU memory for activations, training state, caches (default 16GiB; webgpu 4GiB)",
  },
  cache: {
    kind: "text",
    value: "DIR",
    help: "keep importance and the model's own text here for other runs on the same checkpoint and text",
  },
  ...PLUGIN_FLAGS,
  recipe: { kind: "text", value: "FILE", help: "JSON with the same fields as these flags; flags win" },
  set: {
    kind: "list",
    value: "NAME=VALUE",
    help: "a field of the recipe, a stage or its option: factorization.iterations=60, allocation=measured; " +
      "or bits of weights by REGEX: v_proj=2.5",
  },
};

/** Where a recipe reads and writes, from positional arguments. */
export interface RecipePlaces {
  readonly model?: string;
  readonly out?: string;
}

/**
 * Builds the recipe of a run.
 *
 * @throws {TypeError} naming the flag or field that is wrong.
 */
export async function recipeFromFlags(places: RecipePlaces, flags: FlagValues): Promise<Recipe> {
  const file = flags.text("recipe");
  const recipe: Record<string, unknown> = file === undefined ? {} : await readRecipe(file);
  const put = (field: string, value: unknown) => {
    if (value !== undefined) recipe[field] = value;
  };
  put("model", places.model);
  put("out", places.out);
  if (flags.has("bits") && flags.has("size")) {
    throw usageError("Cannot use --bits and --size together: give one of them");
  }
  if (flags.has("bits")) delete recipe.size;
  if (flags.has("size")) delete recipe.bits;
  for (const field of ["bits", "size", "threads", "memory", "parallel", "seed"]) put(field, flags.number(field));
  put("deviceMemory", flags.number("device-memory"));
  for (const field of ["from", "dtype", "provider", "effort", "cache"]) put(field, flags.text(field));
  for (const [table, bits] of Object.entries(tablesFromFlags(flags))) put(table, bits);
  if (flags.has("keep")) recipe.keep = flags.list("keep");
  if (flags.has("plugin")) recipe.plugins = flags.list("plugin");
  if (flags.on("plugin-sandbox")) recipe.pluginSandbox = true;
  put("pluginDeadline", flags.number("plugin-deadline"));
  put("blocks", parseBlocks(flags.text("blocks")));
  const calibration = flags.text("calibration");
  if (calibration !== undefined) recipe.calibration = { ...object(recipe.calibration), source: calibration };
  // Options are those of the stages that other settings or the calibration choose; bits of weights are options of the allocation.
  const settings = Map.groupBy(flags.list("set"), settingKind);
  const apply = (kind: ReturnType<typeof settingKind>) => settings.get(kind)?.forEach((each) => setField(recipe, each));
  apply("field");
  apply("stage");
  if (recipe.calibration !== undefined) useCalibration(recipe);
  apply("option");
  apply("bits");
  const missing = recipe.model === undefined ? "MODEL" : recipe.out === undefined ? "OUT" : undefined;
  if (missing !== undefined) throw usageError(`Cannot run without ${missing}: give it as an argument, or in --recipe`);
  return parseRecipe(recipe, file === undefined ? "these flags" : `"${file}" with these flags`);
}

/**
 * `"0-1"` or `"3"` → first and last block.
 *
 * @throws {TypeError} when the text is neither.
 */
export function parseBlocks(text: string | undefined): readonly [number, number] | undefined {
  if (text === undefined) return undefined;
  const match = /^(\d+)(?:-(\d+))?$/.exec(text);
  const first = Number(match?.[1]), last = Number(match?.[2] ?? match?.[1]);
  if (match === null || last < first) {
    throw usageError(`Cannot use "${text}" as --blocks: write the first and the last block, e.g. 0-1`);
  }
  return [first, last];
}

/** With calibration text, the stages that use it, unless the recipe chose its own. */
function useCalibration(recipe: Record<string, unknown>): void {
  const stages = { ...object(recipe.stages) };
  const builtin = (kind: string, name?: string) =>
    builtinStages.find((stage) => stage.kind === kind && (name === undefined || stage.name === name))?.name;
  const further = recipe.from !== undefined;
  if (!further) stages.importance ??= builtin("importance", "fisher-diagonal");
  if (!further && recipe.effort !== "fast") {
    const reconstruction = builtin("reconstruction");
    if (reconstruction !== undefined) stages.reconstruction ??= [reconstruction];
  }
  if (further || recipe.effort !== "fast") stages.distillation ??= builtin("distillation");
  const uses = [stages.importance ?? "none", ...[stages.reconstruction ?? []].flat(), stages.distillation ?? "none"];
  if (uses.every((stage) => stage === "none" || object(stage).use === "none")) {
    throw usageError("Cannot use --calibration: no stage of this run reads it; choose one with --set importance=NAME");
  }
  recipe.stages = Object.fromEntries(Object.entries(stages).filter(([, stage]) => stage !== undefined));
}

function object(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? value as Record<string, unknown> : {};
}
