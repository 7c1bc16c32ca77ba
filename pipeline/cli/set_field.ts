/**
 * `--set NAME=VALUE`: one field of a recipe, a stage, or an option of a stage.
 *
 * @module
 */
import { STAGE_SCOPES } from "../stream/stage.ts";
import { parseRecipe } from "../recipe/parse.ts";
import { usageError } from "./errors.ts";

type Fields = Record<string, unknown>;

/**
 * Changes a recipe in place.
 *
 * @param recipe As parsed from JSON.
 * @param setting `factorization=NAME`, `factorization.OPTION=VALUE`, or `FIELD.FIELD=VALUE`; a value that is JSON is read
 *   as such, everything else is text.
 * @throws {TypeError} when there is no `=`, or a part of the name is no object.
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
 * ```
 */
export function setField(recipe: Fields, setting: string): void {
  const equals = setting.indexOf("=");
  const path = setting.slice(0, equals).split(".");
  if (equals < 1 || path.some((part) => part === "" || part === "__proto__")) {
    throw usageError(`Cannot use "${setting}" as --set: write NAME=VALUE, e.g. factorization.iterations=60`);
  }
  const value = parseValue(setting.slice(equals + 1));
  const [kind, ...option] = path;
  if (!Object.hasOwn(STAGE_SCOPES, kind)) return assign(recipe, path, value, setting);

  const stages = (recipe.stages ??= {}) as Fields;
  const list = kind === "reconstruction";
  if (option.length === 0) {
    stages[kind] = list ? [value] : value;
    return;
  }
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
