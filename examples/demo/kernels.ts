/**
 * Builds the native kernels where a compiler is there; everything also runs without them.
 *
 * @module
 */
import { buildKernels } from "../../kernels/native/build.ts";

/**
 * Makes sure that native kernels are there if they can be.
 *
 * @param say Told what is done and why not.
 */
export async function prepareKernels(say: (message: string) => void): Promise<void> {
  try {
    say("native kernels: looking for them, or building them with the C++ compiler …");
    const { rebuilt } = await buildKernels();
    say(`native kernels: ${rebuilt ? "built" : "already built"}`);
  } catch (error) {
    say(`${(error as Error).message.split("\n")[0]}`);
  }
}
