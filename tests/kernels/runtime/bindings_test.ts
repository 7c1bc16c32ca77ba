import { assert, assertEquals, assertNotEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { onnxRuntimeDirectory } from "../../../kernels/runtime/c_api/library.ts";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { doubleModel, incrementModel } from "./graphs.ts";

Deno.test("openRuntime() takes the C API where it may and says so", async () => {
  await using runtime = await openRuntime();
  assertEquals(runtime.binding, "c-api");
  await using other = await openRuntime({ binding: "onnxruntime-node" });
  assertEquals(other.binding, "onnxruntime-node");
  assertEquals(runtime.version, other.version);
});

Deno.test("both bindings give the same results and refuse the same feeds", async () => {
  for (const binding of ["c-api", "onnxruntime-node"] as const) {
    await using runtime = await openRuntime({ binding });
    await using session = await runtime.load(doubleModel(), { name: "double" });
    assertEquals(session.inputs, [{ name: "x", dtype: "float32", shape: ["n", "m"] }]);
    using x = runtime.tensor("float32", Float32Array.of(1, 2), [1, 2]);
    using y = runtime.empty("float32", [1, 2]);
    await session.run({ x }, { into: { y } });
    assertEquals(await y.read(), Float32Array.of(2, 4));
    await assertRejects(() => session.run({}), TypeError, '"x" is not fed');
    await assertRejects(() => runtime.load(Uint8Array.of(1)), Error, "Cannot load a graph");
  }
});

/** Runs a program with exactly these permissions of FFI. */
async function withFfi(ffi: string[]): Promise<{ readonly stdout: string; readonly stderr: string }> {
  const module = new URL("../../../kernels/runtime/open.ts", import.meta.url).href;
  const program = `const { openRuntime } = await import(${JSON.stringify(module)});
    await using runtime = await openRuntime();
    const model = Uint8Array.from(${JSON.stringify([...incrementModel()])});
    await using session = await runtime.load(model);
    using x = runtime.tensor("float32", Float32Array.of(1), [1]);
    const { y } = await session.run({ x });
    console.log(runtime.binding, String(await y.read()));`;
  const path = await Deno.makeTempFile({ suffix: ".ts" });
  await Deno.writeTextFile(path, program);
  const config = fileURLToPath(new URL("../../../deno.json", import.meta.url));
  const args = ["run", "--no-prompt", "--no-check", `--config=${config}`, "--allow-read", "--allow-env", "--allow-sys"];
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), { args: [...args, ...ffi, path] }).output();
  await Deno.remove(path);
  const decoder = new TextDecoder();
  return { stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

Deno.test("openRuntime() takes onnxruntime-node where FFI is granted to it alone", async () => {
  const addon = join(onnxRuntimeDirectory(), "onnxruntime_binding.node");
  const { stdout, stderr } = await withFfi([`--allow-ffi=${addon}`]);
  assertEquals(stdout, "onnxruntime-node 2\n", stderr);
});

Deno.test("openRuntime() without FFI permission names the flag", async () => {
  const { stdout, stderr } = await withFfi([]);
  assertEquals(stdout, "");
  assertStringIncludes(stderr, "--allow-ffi");
  assertNotEquals(stderr, "");
  assert(!stderr.includes("panicked"));
});
