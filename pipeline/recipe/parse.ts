/**
 * Recipes from files and from values, with errors that name the field.
 *
 * @module
 */
import * as v from "valibot";
import { openFolderOf, readJsonObject } from "../checkpoint/folder.ts";
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
 * Reads the fields of a recipe's file without checking them.
 *
 * @throws {Deno.errors.NotFound} when there is no such file.
 * @throws {SyntaxError} when it is not a JSON object.
 * @throws {RangeError} when it is too large or too deep.
 */
export async function readRecipe(path: string): Promise<Record<string, unknown>> {
  const found = await openFolderOf(path).catch((cause) => {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw new Deno.errors.NotFound(`Cannot read the recipe ${path}: there is no such file`, { cause });
  });
  return (await readJsonObject(found.folder, found.name, MAX_RECIPE_BYTES))!;
}

/**
 * Reads a recipe from a JSON file. `overrides` (from flags) win over the file, field by field; `stages` are merged by kind.
 *
 * @throws {SyntaxError} when the file is not JSON.
 * @throws {TypeError} naming the path of every wrong field.
 * @throws {RangeError} when the file is too large.
 */
export async function loadRecipe(path: string, overrides: Readonly<Record<string, unknown>> = {}): Promise<Recipe> {
  const file = await readRecipe(path);
  const given = Object.fromEntries(Object.entries(overrides).filter(([, field]) => field !== undefined));
  const isObject = (field: unknown): field is Record<string, unknown> =>
    typeof field === "object" && field !== null && !Array.isArray(field);
  const stages = isObject(file.stages) && isObject(given.stages) ? { stages: { ...file.stages, ...given.stages } } : {};
  // A budget from the flags replaces the file's, whichever way either is written.
  if (given.bits !== undefined) delete file.size;
  if (given.size !== undefined) delete file.bits;
  return parseRecipe({ ...file, ...given, ...stages }, path);
}
