import { assertEquals } from "@std/assert";
import { sessionThreads } from "../../../kernels/runtime/session_threads.ts";

Deno.test("sessionThreads lets a session decide before its runtime, and a GPU's sessions have one thread where neither does", () => {
  for (const provider of ["cpu", "cuda", "webgpu"] as const) {
    assertEquals(sessionThreads(provider, 4, 2), 2);
    assertEquals(sessionThreads(provider, 4, undefined), 4);
    assertEquals(sessionThreads(provider, undefined, undefined), provider === "cpu" ? undefined : 1);
  }
});
