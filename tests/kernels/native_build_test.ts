import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { fileURLToPath } from "node:url";
import { buildKernels } from "../../kernels/native/build.ts";

const DRIVER = fileURLToPath(new URL("native/driver.cc", import.meta.url));
const hasCompiler = await new Deno.Command("g++", { args: ["--version"], stdout: "null", stderr: "null" }).output()
  .then(({ success }) => success, () => false);

async function inTempDirectory(body: (directory: string) => Promise<void>): Promise<void> {
  const directory = await Deno.makeTempDir({ prefix: "dbf-kernels-" });
  try {
    await body(directory);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

Deno.test("buildKernels() names the compiler that is missing and what happens without it", async () => {
  await inTempDirectory(async (directory) => {
    const error = await assertRejects(() => buildKernels({ compiler: "no-such-compiler", directory }), Error);
    assertStringIncludes(error.message, "no-such-compiler");
    assertStringIncludes(error.message, "portable");
  });
});

Deno.test({
  name: "buildKernels() builds once, reports the compiler's errors, and leaves no partial files",
  ignore: !hasCompiler,
  async fn() {
    await inTempDirectory(async (directory) => {
      const flags = ["-O0"];
      const first = await buildKernels({ directory, flags });
      assert(first.rebuilt);
      assert(!(await buildKernels({ directory, flags })).rebuilt, "same sources, same flags");
      await assertRejects(() => buildKernels({ directory, flags: ["-not-a-flag"] }), Error, "-not-a-flag");
      const names = Array.from(Deno.readDirSync(directory), ({ name }) => name).sort();
      assertEquals(names, ["libdbf_ops.so", "libdbf_ops.so.source"]);
    });
  },
});

Deno.test({
  name: "the kernels of every instruction set equal an f64 twin, under the address and undefined-behaviour sanitizers",
  ignore: !hasCompiler || Deno.build.os !== "linux",
  async fn() {
    await inTempDirectory(async (directory) => {
      const flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1"];
      const { path } = await buildKernels({ program: DRIVER, directory, flags });
      const { success, stdout, stderr } = await new Deno.Command(path, { args: ["60", "20261123"] }).output();
      const decoder = new TextDecoder();
      assert(success, decoder.decode(stdout) + decoder.decode(stderr));
    });
  },
});
