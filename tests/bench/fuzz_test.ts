import { assert, assertEquals } from "@std/assert";
import { fuzz } from "../../bench/fuzz.ts";
import { FORMATS } from "../../bench/fuzz_formats.ts";

/** Only what never ends: the machine that runs the tests may be busy, and a second is the bench's bound. */
const HANGS_MS = 60_000;

/** A small share of `deno task fuzz`: same formats, another seed. */
for (const format of FORMATS) {
  Deno.test(`Mangled ${format.name} ends in a clear error or a correct result`, async () => {
    const result = await fuzz(format, 60, 7, HANGS_MS);
    assertEquals(result.problems, []);
    assert(result.pastFirstCheck >= 30, `only ${result.pastFirstCheck} of 60 got past the first check`);
  });
}
