/**
 * Which shared libraries the dynamic loader cannot find.
 *
 * @module
 */

/** Those of the names, e.g. `"libcudnn.so.9"`, that cannot be loaded. */
export function missingLibraries(names: readonly string[]): string[] {
  return names.filter((name) => {
    try {
      Deno.dlopen(name, {}).close();
      return false;
    } catch {
      return true;
    }
  });
}
