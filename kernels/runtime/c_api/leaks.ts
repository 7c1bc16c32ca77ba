/**
 * Warns of large tensors that were forgotten instead of disposed: their memory is ONNX Runtime's, so the garbage collector
 * cannot give it back.
 *
 * @module
 */
import { emitWarning } from "node:process";

/** Smaller tensors are not watched: watching would cost more than they hold. */
const WATCHED_BYTES = 1 << 20;

const registry = new FinalizationRegistry<number>((bytes) => {
  emitWarning(
    `a tensor of ${bytes} bytes was garbage-collected without being disposed: its memory is lost until the process ends; use \`using\``,
    "ResourceWarning",
  );
});

/** Watches a tensor of so many bytes; 0 ends it. */
export function watchForLeak(tensor: object, bytes: number): void {
  if (bytes >= WATCHED_BYTES) registry.register(tensor, bytes, tensor);
  else if (bytes === 0) registry.unregister(tensor);
}
