/**
 * File names from tensor names, which come from other people's files.
 *
 * @module
 */
import { sha256 } from "./durable.ts";

/** Longest readable part: file systems allow 255 bytes for the whole name. */
const MAX_READABLE = 150;

/** What a committed file may be called; no separators, no leading dot. */
export const ENTRY_FILE_PATTERN = /^[A-Za-z0-9_%][A-Za-z0-9._%-]{0,230}\.g\d{1,9}\.safetensors$/;

/**
 * File name of a tensor in generation `generation`, inside `layers/`. Distinct names give distinct files, also where
 * upper and lower case are the same to the file system.
 *
 * @param name The checkpoint's name of the tensor: any text.
 * @param generation Whole number ≥ 0.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { entryFileName } from "./names.ts";
 *
 * assertEquals(entryFileName("model.norm.weight", 1), "model.norm.weight.g1.safetensors");
 * assertEquals(entryFileName("../up", 1).includes("/"), false);
 * ```
 */
export function entryFileName(name: string, generation: number): string {
  const readable = [...new TextEncoder().encode(name)].map((byte, index) => {
    const character = String.fromCharCode(byte);
    const plain = index === 0 ? /[a-z0-9_]/ : /[a-z0-9._-]/;
    return plain.test(character) ? character : `%${byte.toString(16).padStart(2, "0")}`;
  }).join("");
  const unique = readable.length <= MAX_READABLE
    ? readable
    : `${readable.slice(0, MAX_READABLE)}-${sha256(name).slice(0, 32)}`;
  return `${unique}.g${generation}.safetensors`;
}
