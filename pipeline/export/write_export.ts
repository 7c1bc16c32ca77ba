/**
 * A deployable directory, written in one step: it is there in full, or not at all.
 *
 * @module
 */
import { basename, dirname, join } from "node:path";
import { syncDirectory, TEMPORARY_SUFFIX } from "../artefact/durable.ts";
import type { ArtefactReader } from "../artefact/types.ts";
import type { TableOptions } from "../model/tables.ts";
import type { ModelDescription } from "../model/types.ts";
import type { DbfEvent } from "../stream/events.ts";
import { CARD_MARK, modelCard } from "./model_card.ts";

/** File that marks a directory as an export, so that it may be replaced by another. */
export const EXPORT_CARD = "README.md";

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
  const isExport = names.includes(EXPORT_CARD) &&
    (await Deno.readTextFile(join(directory, EXPORT_CARD))).split("\n", 1)[0].endsWith(CARD_MARK);
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
  const old = `${directory}.old${TEMPORARY_SUFFIX}`;
  await Deno.remove(old, { recursive: true }).catch(() => undefined);
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

/** What a directory is made of. */
export interface WriteExportOptions {
  /** Committed layers, or a checkpoint viewed as an artefact. */
  readonly source: ArtefactReader;
  readonly model: ModelDescription;
  /** Directory to make. */
  readonly directory: string;
  /** Name of the target, for events and the card. */
  readonly target: string;
  readonly dtype: "f32" | "f16";
  /** Bits of embedding and head, for the card. */
  readonly tables?: TableOptions;
  /** Replace an earlier export in `directory`. Anything else there is refused. */
  readonly overwrite?: boolean;
  readonly signal: AbortSignal;
  emit(event: DbfEvent): void;
  /** Writes the target's own files into an existing, empty directory. */
  run(directory: string): Promise<unknown>;
}

/** What was exported. */
export interface ExportResult {
  readonly directory: string;
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
}

/**
 * Makes a directory of what a target writes, config.json, tokenizer files, and a model card. Everything is written into
 * a temporary directory beside it, which is renamed at the end.
 *
 * @throws {Deno.errors.AlreadyExists} when `directory` holds anything, other than an export that may be overwritten.
 * @throws {DOMException} when the signal ends it; nothing is left.
 */
export async function writeExport(options: WriteExportOptions): Promise<ExportResult> {
  const { source, model, target, dtype, overwrite = false, signal } = options;
  signal.throwIfAborted();
  const directory = options.directory.replace(/(?<=.)\/+$/, "");
  await checkPlace(directory, overwrite);
  await Deno.mkdir(dirname(directory), { recursive: true });
  const temporary = directory + TEMPORARY_SUFFIX;
  await Deno.remove(temporary, { recursive: true }).catch(() => undefined); // what a crash left
  await Deno.mkdir(temporary);
  try {
    const started = performance.now();
    options.emit({ type: "stage-start", stage: target, subject: directory });
    await options.run(temporary);
    for (const companion of source.companions) await Deno.copyFile(companion, join(temporary, basename(companion)));
    await Deno.writeTextFile(join(temporary, "config.json"), exportedConfig(source, model));
    const files: { name: string; bytes: number }[] = [];
    for (const name of (await namesIn(temporary) ?? []).sort()) {
      files.push({ name, bytes: (await Deno.stat(join(temporary, name))).size });
    }
    const card = modelCard({ model, source, target, dtype, tables: options.tables, files });
    await Deno.writeTextFile(join(temporary, EXPORT_CARD), card);
    files.push({ name: EXPORT_CARD, bytes: new TextEncoder().encode(card).length });
    signal.throwIfAborted();
    await replaceDirectory(temporary, directory);
    await syncDirectory(dirname(directory));
    options.emit({ type: "stage-end", stage: target, subject: directory, elapsedMs: performance.now() - started });
    return { directory, files };
  } catch (error) {
    await Deno.remove(temporary, { recursive: true }).catch(() => undefined);
    throw error;
  }
}
