/**
 * Third-party stages, loaded by specifier and checked before anything runs.
 *
 * @module
 */
import { isAbsolute, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { openSandbox, type Sandbox } from "../sandbox/sandbox.ts";
import { withDeadline } from "../stream/deadline.ts";
import { type AnyStage, exportedStages } from "./exported_stages.ts";

export { type AnyStage, checkStage } from "./exported_stages.ts";

/** URL or specifier that `import()` takes. */
function importSpecifier(specifier: string, base: string): string {
  if (specifier.startsWith("npm:") || specifier.startsWith("file:")) return specifier;
  if (specifier.startsWith("./") || specifier.startsWith("../") || isAbsolute(specifier)) {
    return pathToFileURL(resolve(base, specifier)).href;
  }
  throw new TypeError(
    `Cannot load the plugin "${specifier}": name a file (./my_stage.ts or an absolute path) or a package (npm:name)`,
  );
}

/** How {@linkcode loadPlugins} loads. */
export interface PluginOptions {
  /** Stages whose names are taken. */
  readonly builtins?: readonly AnyStage[];
  /** Directory that relative specifiers start from; the current one by default. */
  readonly base?: string;
  /** Run each plugin in a worker without permissions. Default false. */
  readonly sandbox?: boolean;
  /** Seconds that one call of a plugin's stage may take. By default there is no end. */
  readonly deadlineSeconds?: number;
}

/** Loaded stages; disposing ends the workers that they run in. */
export type LoadedStages = readonly AnyStage[] & Disposable;

/**
 * Loads stages from `./file.ts`, an absolute path, or an `npm:` package. The default export is a stage or a list of
 * stages; without one, every named export that is a stage counts.
 *
 * @param specifiers Relative ones start at `options.base`.
 * @throws {TypeError} when a module has no stage, or a stage is not well-formed or has a name that is taken.
 * @throws {Error} when the module cannot be loaded; the cause says why.
 */
export async function loadPlugins(specifiers: readonly string[], options: PluginOptions = {}): Promise<LoadedStages> {
  const loaded: AnyStage[] = [];
  const sandboxes: Sandbox[] = [];
  const end = () => sandboxes.forEach((sandbox) => sandbox[Symbol.dispose]());
  try {
    for (const specifier of specifiers) {
      const { stages, stop } = await loadOne(specifier, options, sandboxes);
      for (const stage of stages) {
        const same = (other: AnyStage) => other.kind === stage.kind && other.name === stage.name;
        if ((options.builtins ?? []).some(same)) {
          throw new TypeError(
            `Cannot use ${specifier} as ${stage.kind} "${stage.name}" is built in: choose another name`,
          );
        }
        if (loaded.some(same)) {
          throw new TypeError(
            `Cannot use ${specifier} as two plugins have the ${stage.kind} "${stage.name}": load only one`,
          );
        }
        const { deadlineSeconds } = options;
        loaded.push(deadlineSeconds === undefined ? stage : withDeadline(stage, deadlineSeconds, stop));
      }
    }
  } catch (error) {
    end();
    throw error;
  }
  return Object.assign(loaded, { [Symbol.dispose]: end });
}

async function loadOne(
  specifier: string,
  { base = Deno.cwd(), sandbox: boxed = false }: PluginOptions,
  sandboxes: Sandbox[],
): Promise<{ readonly stages: readonly AnyStage[]; readonly stop?: (reason: Error) => void }> {
  const target = importSpecifier(specifier, base);
  const refuse = (cause: unknown) =>
    new Error(`Cannot load the plugin "${specifier}": ${cause instanceof Error ? cause.message : cause}`, { cause });
  if (boxed) {
    const sandbox = await openSandbox(target, specifier).catch((cause) => {
      throw cause instanceof TypeError ? cause : refuse(cause);
    });
    sandboxes.push(sandbox);
    return { stages: sandbox.stages, stop: sandbox.stop };
  }
  let module: Record<string, unknown>;
  try {
    module = await import(target);
  } catch (cause) {
    throw refuse(cause);
  }
  return { stages: exportedStages(module, specifier) };
}
