/**
 * The C library's heap of this process, which ONNX Runtime, its tensors and JavaScript's arrays share.
 *
 * @module
 */
import { onnxRuntimePath } from "./library.ts";

/** `M_MMAP_THRESHOLD` of glibc's `<malloc.h>`. */
const MMAP_THRESHOLD = -3;

/**
 * Pieces from this size on get pages of their own, which go back to the system when they are freed. By itself glibc raises the
 * limit to the size of whatever was freed last, up to 32 MiB, and pieces below it lie in a heap that shrinks only from its end:
 * a calibrated run of two blocks of width 1024 held 1.1 GiB between its stages so, and 0.2 GiB with this. The price are pages that
 * have to be made again: tensors of 16 MiB that are made, run and read from JavaScript take two to three times as long (`deno task
 * bench runtime`, 8 to 12 ms a run before, 23 ms since); what stays in tensors pays nothing.
 */
const OWN_PAGES_BYTES = 2 ** 20;

/** Sets glibc's heap up as {@linkcode OWN_PAGES_BYTES} says; nothing on systems with another C library, whose heaps do not do that. */
export function returnFreedMemory(): void {
  if (Deno.build.os !== "linux") return;
  // Looked up through the library's own dependencies, so that its permission is all that is needed.
  const { symbols: { mallopt } } = Deno.dlopen(onnxRuntimePath(), {
    mallopt: { parameters: ["i32", "i32"], result: "i32", optional: true },
  });
  mallopt?.(MMAP_THRESHOLD, OWN_PAGES_BYTES);
}
