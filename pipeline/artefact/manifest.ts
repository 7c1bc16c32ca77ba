/**
 * manifest.json: what an artefact holds. It is written last, and read as a stranger's file.
 *
 * @module
 */
import * as v from "valibot";
import { ENTRY_FILE_PATTERN } from "./names.ts";

/** Name of the manifest in an artefact's directory. */
export const MANIFEST_FILE = "manifest.json";

/** Folder of committed tensors inside an artefact's directory. */
export const LAYERS_FOLDER = "layers";

/** Version of the format; readers refuse another. */
export const MANIFEST_VERSION = 1;

/** Largest manifest read: 126 layers × 12 tensors × 600 bytes are 1 MB; this leaves a factor of 60. */
export const MAX_MANIFEST_BYTES = 64_000_000;

/** Most entries: a factor of 60 over the largest dense decoders. */
const MAX_ENTRIES = 100_000;
/** Most dimensions of a weight, and the largest one: vocabularies reach 262,144. */
const MAX_DIMENSIONS = 4;
const MAX_DIMENSION = 2 ** 31;
/** Longest name; real ones stay below 200. */
const MAX_NAME = 4096;
/** Most attributes of a layer; the built-in kinds have fewer than 8. */
const MAX_ATTRIBUTES = 64;

const Name = v.pipe(v.string(), v.nonEmpty(), v.maxLength(MAX_NAME));
const Count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const Dimension = v.pipe(v.number(), v.safeInteger(), v.minValue(1), v.maxValue(MAX_DIMENSION));

const ManifestEntry = v.strictObject({
  name: Name,
  kind: v.pipe(v.string(), v.regex(/^[a-z][a-z0-9-]{0,63}$/, "must be lower case, digits and dashes")),
  shape: v.pipe(v.array(Dimension), v.maxLength(MAX_DIMENSIONS)),
  generation: Count,
  file: v.pipe(v.string(), v.regex(ENTRY_FILE_PATTERN, "must be a plain file name inside layers/")),
  bytes: Count,
  sha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, "must be 64 hexadecimal digits")),
  attributes: v.pipe(
    v.record(
      v.pipe(v.string(), v.maxLength(MAX_NAME)),
      v.union([v.pipe(v.string(), v.maxLength(MAX_NAME)), v.number(), v.boolean()]),
    ),
    v.maxEntries(MAX_ATTRIBUTES),
  ),
});

const Manifest = v.strictObject({
  format: v.literal("dbf-artefact"),
  version: v.literal(MANIFEST_VERSION),
  /** `model_type` of the compressed model. */
  architecture: v.pipe(v.string(), v.maxLength(MAX_NAME)),
  /** First and last block, both included, where the run took only some. */
  blocks: v.optional(v.tuple([Count, Count])),
  /** Files beside the manifest that deployments need. */
  companions: v.pipe(
    v.array(v.pipe(v.string(), v.regex(/^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/, "must be a plain file name"))),
    v.maxLength(64),
  ),
  fingerprint: v.record(v.string(), v.unknown()),
  entries: v.pipe(v.array(ManifestEntry), v.maxLength(MAX_ENTRIES)),
});

/** A committed tensor or layer as the manifest lists it. */
export interface ManifestEntryContent {
  /** The checkpoint's name of the weight. */
  readonly name: string;
  readonly kind: string;
  readonly shape: readonly number[];
  readonly generation: number;
  /** Plain file name inside `layers/`. */
  readonly file: string;
  readonly bytes: number;
  /** SHA-256 of the file. */
  readonly sha256: string;
  readonly attributes: Readonly<Record<string, string | number | boolean>>;
}

/** A checked manifest. */
export interface ManifestContent {
  readonly format: "dbf-artefact";
  readonly version: 1;
  /** `model_type` of the compressed model. */
  readonly architecture: string;
  /** First and last block, both included, where the run took only some. */
  readonly blocks?: readonly [number, number];
  /** Plain names of files beside the manifest that deployments need. */
  readonly companions: readonly string[];
  /** What the run's results depend on. */
  readonly fingerprint: Readonly<Record<string, unknown>>;
  readonly entries: readonly ManifestEntryContent[];
}

/**
 * Checks a parsed manifest.
 *
 * @param path Where it came from, for errors.
 * @throws {TypeError} naming the field that is wrong.
 */
export function parseManifest(value: unknown, path: string): ManifestContent {
  const parsed = v.safeParse(Manifest, value, { abortEarly: true });
  if (!parsed.success) {
    const [issue] = parsed.issues;
    throw new TypeError(
      `Cannot read ${path} as a manifest: field "${v.getDotPath(issue) ?? ""}": ${issue.message.slice(0, 300)}`,
    );
  }
  const names = new Set<string>();
  for (const { name } of parsed.output.entries) {
    if (names.has(name)) {
      throw new TypeError(`Cannot read ${path} as a manifest: entry "${name.slice(0, 200)}" is there twice`);
    }
    names.add(name);
  }
  return parsed.output;
}
