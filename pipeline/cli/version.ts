/**
 * The version that `--version` prints.
 *
 * @module
 */
import { DBF_VERSION } from "../compress_fingerprint.ts";

/** Semantic version of dbf. */
export const VERSION: string = DBF_VERSION;
