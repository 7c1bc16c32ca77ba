/**
 * Builds the native kernels where a compiler is there; everything also runs without them.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { openRuntime } from "../../mod.ts";

const BUILD = fileURLToPath(new URL("../../kernels/native/build.ts", import.meta.url));

/**
 * Makes sure that native kernels are there if they can be.
 *
 * @param say Told what is done and why not.
 */
export async function prepareKernels(say: (message: string) => void): Promise<void> {
  if (await areBuilt()) return say("native kernels: already built");
  if (!await succeeds("g++", ["--version"]) || !await exists(BUILD)) {
    return say("native kernels: not built as there is no g++; portable function bodies run instead");
  }
  say("native kernels: building with g++ …");
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-read", "--allow-write", "--allow-env", "--allow-sys", "--allow-ffi", "--allow-run", BUILD],
  }).output();
  const last = new TextDecoder().decode(stderr).trim().split("\n").at(-1);
  say(success ? "native kernels: built" : `native kernels: not built (${last}); portable function bodies run instead`);
}

async function areBuilt(): Promise<boolean> {
  await using runtime = await openRuntime();
  return runtime.nativeKernels !== undefined;
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

async function succeeds(command: string, args: string[]): Promise<boolean> {
  try {
    return (await new Deno.Command(command, { args, stdout: "null", stderr: "null" }).output()).success;
  } catch {
    return false;
  }
}
