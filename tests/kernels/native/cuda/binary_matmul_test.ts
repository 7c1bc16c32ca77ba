import { assertEquals } from "@std/assert";
import { fileURLToPath } from "node:url";
import { buildCudaKernels, findNvcc } from "../../../../kernels/native/cuda/build.ts";

const here = fileURLToPath(new URL(".", import.meta.url));
const kernels = fileURLToPath(new URL("../../../../kernels/native/cuda/", import.meta.url));
const program = `${here}binary_matmul_test.cu`;

async function runs(command: string, ...args: string[]): Promise<boolean> {
  const options = { args, stdout: "null", stderr: "null" } as const;
  try {
    return (await new Deno.Command(command, options).output()).success;
  } catch {
    return false; // a command that is not there is refused before there is a promise
  }
}

/** Output and exit code of a program. */
async function outcome(command: string, args: string[], env?: Record<string, string>): Promise<[string, number]> {
  const { code, stdout, stderr } = await new Deno.Command(command, { args, env }).output();
  const text = new TextDecoder();
  return [text.decode(stdout) + text.decode(stderr), code];
}

/** Compiles the kernels for the CPU; see emulated/emulated.h. */
async function buildEmulation(directory: string): Promise<string> {
  const flags = ["-std=c++17", "-O1", "-I", `${here}emulated`, "-include", `${here}emulated/emulated.h`, "-x", "c++"];
  const sources = [
    "decode_bits_short",
    "decode_bits_long",
    "decode_bytes",
    "prefill_wgmma",
    "prefill_mma",
    "binary_matmul",
  ].map((name) => `${kernels}${name}.cu`);
  const objects = await Promise.all([...sources, program, `${here}emulated/emulated.cc`].map(async (source, index) => {
    const object = `${directory}/${index}.o`;
    const [text, code] = await outcome("g++", [...flags, "-c", source, "-o", object]);
    assertEquals(code, 0, text);
    return object;
  }));
  const [text, code] = await outcome("g++", [...objects, "-o", `${directory}/emulated`]);
  assertEquals(code, 0, text);
  return `${directory}/emulated`;
}

Deno.test({
  name: "CUDA kernels agree with a float64 twin on random shapes, emulated on the CPU",
  ignore: !await runs("g++", "--version"),
  async fn() {
    const directory = await Deno.makeTempDir({ prefix: "dbf-cuda-" });
    try {
      const emulation = await buildEmulation(directory);
      // A device with one multiprocessor gets the largest tiles, one with 132 the smallest.
      await Promise.all(["1", "132"].map(async (processors) => {
        const [text, code] = await outcome(emulation, ["8", processors, "--exact"], {
          DBF_EMULATED_PROCESSORS: processors,
        });
        assertEquals(code, 0, text);
      }));
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
});

Deno.test({
  name: "CUDA kernels agree with a float64 twin on 10,000 random shapes, on this machine's GPU",
  ignore: await findNvcc() === undefined || !await runs("nvidia-smi"),
  async fn() {
    const { path } = await buildCudaKernels({ program });
    const [text, code] = await outcome(path, ["10000"]);
    assertEquals(code, 0, text);
  },
});
