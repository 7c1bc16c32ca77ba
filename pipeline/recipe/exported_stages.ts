/**
 * The stages that a plugin's module exports, checked.
 *
 * @module
 */
import { type Stage, STAGE_SCOPES, type StageKind } from "../stream/stage.ts";

/** A stage of any kind, as lists of plugins hold it. */
export type AnyStage = { [K in StageKind]: Stage<K> }[StageKind];

const NAME = /^[a-z][a-z0-9]*(-[a-z0-9]+)*$/;
const VERSION = /^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$/;

/**
 * Checks that a value is a stage.
 *
 * @param where Which export of which plugin it is, for errors.
 * @throws {TypeError} naming the field that is wrong.
 *
 * @example
 * ```ts
 * import { assertThrows } from "@std/assert";
 * import { checkStage } from "./exported_stages.ts";
 *
 * assertThrows(() => checkStage({ kind: "allocation" }, "my.ts"), TypeError, "scope");
 * ```
 */
export function checkStage(value: unknown, where: string): AnyStage {
  const refuse = (field: string, rule: string, found: unknown): never => {
    const shown = typeof found === "function" ? "a function" : JSON.stringify(found) ?? String(found);
    throw new TypeError(`Cannot use ${where} as a stage as ${field} ${rule}: current value is ${shown.slice(0, 120)}`);
  };
  if (typeof value !== "object" || value === null) return refuse("it", "must be an object made by defineStage", value);
  const stage = value as Record<string, unknown>;
  const kinds = Object.keys(STAGE_SCOPES);
  if (typeof stage.kind !== "string" || !kinds.includes(stage.kind)) {
    refuse("kind", `must be one of ${kinds.join(", ")}`, stage.kind);
  }
  const scope = STAGE_SCOPES[stage.kind as StageKind];
  if (stage.scope !== scope) refuse("scope", `must be "${scope}" for ${stage.kind}`, stage.scope);
  if (typeof stage.name !== "string" || !NAME.test(stage.name)) {
    refuse("name", "must be lower case, digits and dashes", stage.name);
  }
  if (typeof stage.version !== "string" || !VERSION.test(stage.version)) {
    refuse("version", 'must be like "1.0.0"', stage.version);
  }
  if (typeof stage.description !== "string") refuse("description", "must be one sentence", stage.description);
  const options = stage.options as { readonly kind?: unknown; readonly "~standard"?: unknown } | null | undefined;
  if (typeof options !== "object" || options === null || options["~standard"] === undefined) {
    refuse("options", "must be a valibot object schema, e.g. v.strictObject({})", stage.options);
  }
  if (typeof stage.estimate !== "function") refuse("estimate", "must be a function of the layer", stage.estimate);
  if (typeof stage.run !== "function") refuse("run", "must be a function", stage.run);
  return value as AnyStage;
}

/**
 * Stages among a module's exports: the default one, or all named ones that look like stages.
 *
 * @param specifier Where the module came from, for errors.
 * @throws {TypeError} when there is none, or one is not well-formed.
 */
export function exportedStages(module: Readonly<Record<string, unknown>>, specifier: string): AnyStage[] {
  const main = module.default;
  if (Array.isArray(main)) {
    return main.map((stage, index) => checkStage(stage, `default export [${index}] of ${specifier}`));
  }
  if (main !== undefined) return [checkStage(main, `the default export of ${specifier}`)];
  const candidates = Object.entries(module).filter(([, value]) =>
    typeof value === "object" && value !== null && "kind" in value && "run" in value
  );
  if (candidates.length === 0) {
    throw new TypeError(
      `Cannot use ${specifier} as a plugin as it exports no stage: export default defineStage({ … }), a list, or named stages`,
    );
  }
  return candidates.map(([name, value]) => checkStage(value, `export ${name} of ${specifier}`));
}
