/**
 * Recipes from files and from values, with errors that name the field.
 *
 * @module
 */
import * as v from "valibot";
import { type Recipe, RecipeSchema } from "./schema.ts";

/** Largest recipe read: a list of a thousand patterns has 100 kB. */
const MAX_RECIPE_BYTES = 1_000_000;

/** The issue of a union's member that got furthest, so that the path leads to the field itself. */
function deepest(issue: v.BaseIssue<unknown>): { readonly path: string; readonly message: string } {
  const path = v.getDotPath(issue) ?? "";
  const inner = (issue.issues ?? []).filter((one) => one.path !== undefined).map(deepest)
    .sort((a, b) => b.path.split(".").length - a.path.split(".").length)[0];
  if (inner === undefined) return { path, message: issue.message };
  return { path: path === "" ? inner.path : `${path}.${inner.path}`, message: inner.message };
}

/** Text of the first issues of a failed parse: `field: what is wrong; …`. */
export function describeIssues(issues: readonly v.BaseIssue<unknown>[]): string {
  return issues.slice(0, 5).map((issue) => {
    const { path, message } = deepest(issue);
    return path === "" ? message : `${path}: ${message}`;
  }).join("; ").slice(0, 1000);
}

/**
 * Checks a recipe and fills in its defaults.
 *
 * @param value Parsed JSON, or an object made by a program.
 * @param where Where it came from, for errors.
 * @throws {TypeError} naming the path of every wrong field.
 *
 * @example
 * ```ts
 * import { assertEquals, assertThrows } from "@std/assert";
 * import { parseRecipe } from "./parse.ts";
 *
 * assertEquals(parseRecipe({ model: "m", out: "o" }).stages.factorization.use, "dbf-admm");
 * assertThrows(() => parseRecipe({ model: "m", out: "o", bits: -1 }), TypeError, "bits: must be above 0");
 * ```
 */
export function parseRecipe(value: unknown, where = "this recipe"): Recipe {
  const parsed = v.safeParse(RecipeSchema, value);
  if (!parsed.success) throw new TypeError(`Cannot use ${where}: ${describeIssues(parsed.issues)}`);
  return parsed.output;
}

/**
 * Reads a recipe from a JSON file. `overrides` (from flags) win over the file, field by field; `stages` are merged by kind.
 *
 * @throws {SyntaxError} when the file is not JSON.
 * @throws {TypeError} naming the path of every wrong field.
 * @throws {RangeError} when the file is too large.
 */
export async function loadRecipe(path: string, overrides: Readonly<Record<string, unknown>> = {}): Promise<Recipe> {
  const { size } = await Deno.stat(path);
  if (size > MAX_RECIPE_BYTES) {
    throw new RangeError(
      `Cannot read ${path} as a recipe of at most ${MAX_RECIPE_BYTES} bytes: current value is ${size}`,
    );
  }
  let value: unknown;
  try {
    value = JSON.parse(await Deno.readTextFile(path));
  } catch (cause) {
    throw new SyntaxError(`Cannot read ${path} as JSON: ${cause instanceof Error ? cause.message : cause}`, { cause });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new TypeError(`Cannot use ${path} as a recipe: it must hold a JSON object`);
  }
  const file = value as Record<string, unknown>;
  const given = Object.fromEntries(Object.entries(overrides).filter(([, field]) => field !== undefined));
  const isObject = (field: unknown): field is Record<string, unknown> =>
    typeof field === "object" && field !== null && !Array.isArray(field);
  const stages = isObject(file.stages) && isObject(given.stages) ? { stages: { ...file.stages, ...given.stages } } : {};
  // A budget from the flags replaces the file's, whichever way either is written.
  if (given.bits !== undefined) delete file.size;
  if (given.size !== undefined) delete file.bits;
  return parseRecipe({ ...file, ...given, ...stages }, path);
}
