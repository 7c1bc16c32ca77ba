import { assert, assertEquals, assertMatch } from "@std/assert";
import { missingLibraries } from "../../../kernels/runtime/c_api/missing_libraries.ts";
import { diagnose } from "../../../kernels/runtime/doctor.ts";
import { provider } from "./graphs.ts";

Deno.test("diagnose() finds ONNX Runtime, the provider under test, and says why others do not load", async () => {
  const facts = await diagnose();
  assertMatch(facts.onnxruntime.version ?? "", /^1\.\d+\.\d+$/);
  assertEquals(facts.providers.map((each) => each.provider), ["cpu", "cuda", "webgpu"]);
  const [cpu, cuda] = facts.providers;
  assertEquals([cpu.usable, cpu.binding], [true, "c-api"]);
  assert(facts.providers.find((each) => each.provider === provider)!.usable);
  if (!cuda.usable) {
    assert(cuda.problem !== undefined && cuda.remedy !== undefined);
    if (Deno.build.os === "linux") assert(cuda.missing !== undefined);
  }
  assert(facts.cores >= 1 && facts.memory!.totalBytes > facts.memory!.availableBytes);
  assertEquals(facts.missingPermissions, []);
});

Deno.test({
  name: "missingLibraries() tells what the loader finds from what it does not",
  ignore: Deno.build.os !== "linux",
  fn() {
    assertEquals(missingLibraries(["libc.so.6", "libnowhere.so.7"]), ["libnowhere.so.7"]);
  },
});
