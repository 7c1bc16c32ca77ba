import { main } from "../../bench/crash.ts";

Deno.test("A run that is killed and run again ends with the bytes of an uninterrupted one", async () => {
  // Throws where bytes differ; `deno task bench crash` does it a hundred times.
  const log = console.log;
  console.log = () => {};
  try {
    await main(["--kills", "2", "--each", "0", "--json"]);
  } finally {
    console.log = log;
  }
});
