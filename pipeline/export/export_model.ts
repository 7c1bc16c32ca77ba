/**
 * From an artefact, or a checkpoint seen as one, to a directory that can be deployed.
 *
 * @module
 */
import { basename, dirname, join } from "node:path";
import type { ArtefactReader } from "../artefact/types.ts";
import { syncDirectory } from "../artefact/durable.ts";
import type { ModelDescription } from "../model/types.ts";
import type { DbfEvent } from "../stream/events.ts";
import type { OptionsSchema, Stage, StageContext } from "../stream/stage.ts";
import type { Runtime } from "../../kernels/runtime/types.ts";
import * as v from "valibot";
import { modelCard } from "./model_card.ts";

/** File that marks a directory as an export, so that it may be replaced by another. */
export const EXPORT_CARD = "README.md";

/** What to export. */
export interface ExportOptions<S extends OptionsSchema = OptionsSchema> {
  /** Committed layers, or a checkpoint viewed as an artefact. */
  readonly source: ArtefactReader;
  /** Its decoder; `describeArtefact(source)` gives it. Fewer blocks than the source has make a shorter model. */
  readonly model: ModelDescription;
  /** Directory to make. */
  readonly directory: string;
  readonly target: Stage<"target", S>;
  /** Options of the target, unparsed. */
  readonly options?: unknown;
  /** Type of what stays dense and of activations. Default f32. */
  readonly dtype?: "f32" | "f16";
  /** Replace an earlier export in `directory`. Anything else there is refused. */
  readonly overwrite?: boolean;
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: DbfEvent) => void;
  /** For targets that compute; the built-in ones do not. */
  readonly runtime?: Runtime;
}

/** What was exported. */
export interface ExportResult {
  readonly directory: string;
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
}

async function namesIn(directory: string): Promise<string[] | undefined> {
  try {
    const names: string[] = [];
    for await (const { name } of Deno.readDir(directory)) names.push(name);
    return names;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Refuses to write over what is no export. */
async function checkPlace(directory: string, overwrite: boolean): Promise<void> {
  const names = await namesIn(directory);
  if (names === undefined || names.length === 0) return;
  const isExport = names.includes(EXPORT_CARD) && names.some((name) => name.endsWith(".onnx"));
  if (!isExport || !overwrite) {
    throw new Deno.errors.AlreadyExists(
      `Cannot export to ${directory}: it holds ${names.length} files, ${names.slice(0, 3).join(", ")} among them; ` +
        (isExport ? "remove it or ask to overwrite it" : "choose another directory"),
    );
  }
}

/** Puts the finished directory where an older export or nothing is. */
async function replaceDirectory(temporary: string, directory: string): Promise<void> {
  const names = await namesIn(directory);
  if (names === undefined) return await Deno.rename(temporary, directory);
  const old = `${temporary}.old`;
  await Deno.rename(directory, old);
  await Deno.rename(temporary, directory);
  await Deno.remove(old, { recursive: true });
}

/** config.json of what was exported: as in the source, with the number of blocks that were. */
function exportedConfig(source: ArtefactReader, model: ModelDescription): string {
  const config: Record<string, unknown> = { ...source.config };
  if (typeof config.num_hidden_layers === "number") config.num_hidden_layers = model.blocks.length;
  return `${JSON.stringify(config, null, 2)}\n`;
}

/**
 * Makes a deployable directory: what the target writes, config.json, tokenizer files, and a model card. Everything is
 * written into a temporary directory beside it, which is renamed at the end: `directory` is whole or not there.
 *
 * @throws {Deno.errors.AlreadyExists} when `directory` holds anything, other than an export that may be overwritten.
 * @throws {DOMException} when the signal ends it; nothing is left.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { openCheckpoint } from "../checkpoint/open.ts";
 * import { describeArtefact } from "../artefact/describe.ts";
 * import { viewCheckpoint } from "../artefact/checkpoint_view.ts";
 * import { onnxTarget } from "../../plugins/target/onnx/stage.ts";
 * import { exportModel } from "./export_model.ts";
 *
 * using source = viewCheckpoint(await openCheckpoint("tests/fixtures/architectures/llama"));
 * const directory = `${await Deno.makeTempDir()}/onnx`;
 * const { files } = await exportModel({ source, model: await describeArtefact(source), directory, target: onnxTarget });
 * assertEquals(files.map(({ name }) => name).includes("model.onnx"), true);
 * await Deno.remove(directory, { recursive: true });
 * ```
 */
export async function exportModel<S extends OptionsSchema>(options: ExportOptions<S>): Promise<ExportResult> {
  const { source, model, directory, target, dtype = "f32", overwrite = false } = options;
  const signal = options.signal ?? new AbortController().signal;
  signal.throwIfAborted();
  const parsed = v.parse(target.options, options.options ?? {});
  const place = directory.replace(/(?<=.)\/+$/, "");
  await checkPlace(place, overwrite);
  await Deno.mkdir(dirname(place), { recursive: true });
  const temporary = `${place}.tmp-${crypto.randomUUID().slice(0, 8)}`;
  await Deno.mkdir(temporary);
  try {
    const emit = (event: DbfEvent) => options.onEvent?.(event);
    const context: StageContext = {
      get runtime(): Runtime {
        if (options.runtime !== undefined) return options.runtime;
        throw new TypeError(`Cannot compute in target ${target.name}: exportModel() was given no runtime`);
      },
      signal,
      scratch: temporary,
      emit,
    };
    const started = performance.now();
    emit({ type: "stage-start", stage: `target/${target.name}`, subject: place });
    await target.run({ source, model, directory: temporary, dtype }, parsed, context);
    for (const companion of source.companions) await Deno.copyFile(companion, join(temporary, basename(companion)));
    await Deno.writeTextFile(join(temporary, "config.json"), exportedConfig(source, model));
    const files: { name: string; bytes: number }[] = [];
    for (const name of (await namesIn(temporary) ?? []).sort()) {
      files.push({ name, bytes: (await Deno.stat(join(temporary, name))).size });
    }
    const card = modelCard({ model, source, target: target.name, dtype, files });
    await Deno.writeTextFile(join(temporary, EXPORT_CARD), card);
    files.push({ name: EXPORT_CARD, bytes: new TextEncoder().encode(card).length });
    signal.throwIfAborted();
    await replaceDirectory(temporary, place);
    await syncDirectory(dirname(place));
    emit({ type: "stage-end", stage: `target/${target.name}`, subject: place, elapsedMs: performance.now() - started });
    return { directory: place, files };
  } catch (error) {
    await Deno.remove(temporary, { recursive: true }).catch(() => undefined);
    throw error;
  }
}
