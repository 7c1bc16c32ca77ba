import { assertEquals } from "@std/assert";

Deno.test({
  name: "processorFlags() tells the same with all permissions and with FFI's alone",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const flagsWith = async (...permissions: string[]) => {
      const module = new URL("../../../kernels/runtime/processor_flags.ts", import.meta.url).href;
      const code = `import { processorFlags } from "${module}"; console.log([...processorFlags()].sort().join());`;
      const { stdout } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "--no-prompt", "--no-check", ...permissions, `data:text/javascript,${encodeURIComponent(code)}`],
        env: { NO_COLOR: "1" },
      }).output();
      return new TextDecoder().decode(stdout).trim();
    };
    const all = await flagsWith("-A");
    assertEquals(await flagsWith("--allow-ffi"), all);
    assertEquals(await flagsWith(), "");
    const text = new TextDecoder().decode((await new Deno.Command("cat", { args: ["/proc/cpuinfo"] }).output()).stdout);
    assertEquals(all, text.match(/^(?:flags|Features)\s*:(.*)$/m)![1].trim().split(/\s+/).sort().join());
  },
});
