/**
 * `--set NAME=VALUE`: one field of a recipe, a stage, or an option of a stage.
 *
 * @module
 */
import { STAGE_SCOPES } from "../stream/stage.ts";
import { parseRecipe } from "../recipe/parse.ts";
import { RECIPE_FIELDS } from "../recipe/schema.ts";
import { usageError } from "./errors.ts";
import { closest } from "./suggest.ts";

type Fields = Record<string, unknown>;

/**
 * Changes a recipe in place.
 *
 * @param recipe As parsed from JSON.
 * @param setting `factorization=NAME`, `factorization.OPTION=VALUE`, or `FIELD.FIELD=VALUE`; a value that is JSON is read
 *   as such, everything else is text. `REGEX=BITS`, where the name begins with no field or stage, stands for an entry of
 *   `allocation.overrides`: sign bits per weight of the layers whose weight name matches.
 * @throws {TypeError} when there is no `=`, a part of the name is no object, or the name is nearly that of a field.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { setField } from "./set_field.ts";
 *
 * const recipe = {};
 * setField(recipe, "factorization.iterations=60");
 * setField(recipe, "calibration.sequences=64");
 * assertEquals(recipe, {
 *   stages: { factorization: { use: "dbf-admm", options: { iterations: 60 } } },
 *   calibration: { sequences: 64 },
 * });
 *
 * const shorter = {};
 * setField(shorter, "v_proj=2.5");
 * assertEquals(shorter, { stages: { allocation: { use: "uniform", options: { overrides: { v_proj: 2.5 } } } } });
 * ```
 */
export function setField(recipe: Fields, setting: string): void {
  const equals = setting.indexOf("="), changes = settingKind(setting);
  if (changes === "bits") {
    const bits = Number(setting.slice(equals + 1));
    return setOption(recipe, "allocation", ["overrides", setting.slice(0, equals)], bits, setting);
  }
  const path = setting.slice(0, equals).split(".");
  if (equals < 1 || path.some((part) => part === "" || part === "__proto__")) {
    throw usageError(`Cannot use "${setting}" as --set: write NAME=VALUE, e.g. factorization.iterations=60`);
  }
  const value = parseValue(setting.slice(equals + 1));
  const [kind, ...option] = path;
  if (changes === "field") return assign(recipe, path, value, setting);
  if (changes === "option") return setOption(recipe, kind, option, value, setting);
  const stages = (recipe.stages ??= {}) as Fields;
  stages[kind] = kind === "reconstruction" ? [value] : value;
}

/** Changes an option of the stage of a kind, of the last one where there are several. */
function setOption(recipe: Fields, kind: string, option: readonly string[], value: unknown, setting: string): void {
  const stages = (recipe.stages ??= {}) as Fields;
  const list = kind === "reconstruction";
  const all = list ? [...(stages[kind] as unknown[] | undefined ?? [])] : [stages[kind] ?? defaultStage(kind)];
  const choice = all.pop();
  if (choice === undefined) {
    throw usageError(`Cannot use "${setting}" as --set before a stage is chosen: write --set ${kind}=NAME first`);
  }
  const stage: Fields = typeof choice === "string" ? { use: choice } : { ...choice as Fields };
  stage.options = { ...stage.options as Fields | undefined };
  assign(stage.options as Fields, option, value, setting);
  stages[kind] = list ? [...all, stage] : stage;
}

/**
 * What a setting changes: a field of the recipe, which stage a kind has, an option of it, or bits for weights that match a pattern,
 * which is a number for what is no field and no stage.
 *
 * @throws {TypeError} when it looks like the last and the name is nearly that of a field.
 */
export function settingKind(setting: string): "field" | "stage" | "option" | "bits" {
  const equals = setting.indexOf("=");
  const [first, ...rest] = setting.slice(0, Math.max(0, equals)).split("."), value = setting.slice(equals + 1).trim();
  if (Object.hasOwn(STAGE_SCOPES, first)) return rest.length > 0 ? "option" : "stage";
  if (equals < 1 || value === "" || !Number.isFinite(Number(value))) return "field";
  if (RECIPE_FIELDS.includes(first)) return "field";
  const near = closest(first, [...RECIPE_FIELDS, ...Object.keys(STAGE_SCOPES)]);
  if (near === undefined) return "bits";
  throw usageError(
    `Cannot use "${setting}" as --set: there is no field "${first}"; did you mean "${near}"? For bits of weights whose ` +
      `name matches, write --set 'allocation.overrides={${JSON.stringify(first)}:${value}}'`,
  );
}

function assign(target: Fields, path: readonly string[], value: unknown, setting: string): void {
  let place = target;
  for (const part of path.slice(0, -1)) {
    const next = place[part] ??= {};
    if (typeof next !== "object" || next === null || Array.isArray(next)) {
      throw usageError(`Cannot use "${setting}" as --set: "${part}" is not an object`);
    }
    place = next as Fields;
  }
  place[path[path.length - 1]] = value;
}

/** The stage that a recipe has where it names none. */
function defaultStage(kind: string): string | undefined {
  const stages: Readonly<Record<string, unknown>> = parseRecipe({ model: "-", out: "-" }).stages;
  return (stages[kind] as { readonly use?: string } | undefined)?.use;
}

function parseValue(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
