/** The program as a process: signals, and the narrow permissions that SECURITY.md recommends. */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { TextLineStream } from "@std/streams/text-line-stream";
import { snapshot } from "../fake_stages.ts";

const ROOT = new URL("../../../", import.meta.url).pathname;
const MODEL = "tests/fixtures/architectures/llama";
// deno-fmt-ignore
const COMPRESS = [
  "--bits", "1", "--threads", "1", "--set", "factorization.iterations=4", "--set", "factorization.sweeps=1", "--json",
];

/** Flags that permit reading the program and the model, and writing nothing but `out`. */
const narrow = (out: string) => [
  "run",
  "--no-prompt",
  "--no-check",
  `--allow-read=${ROOT},${out}`,
  `--allow-write=${out}`,
  "--allow-env=DBF_DEBUG",
  "--allow-sys=statfs,systemMemoryInfo",
  "--allow-ffi",
  "mod.ts",
];

/** Runs the program; sends `signal` at the first committed layer. */
async function run(args: readonly string[], signal?: Deno.Signal): Promise<{ code: number; err: string }> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [...args],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdout: "null",
    stderr: "piped",
  }).spawn();
  let err = "", sent = signal === undefined;
  const lines = child.stderr.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream());
  for await (const line of lines) {
    err += `${line}\n`;
    if (sent || !line.includes('"layer-committed"')) continue;
    sent = true;
    child.kill(signal!);
  }
  return { code: (await child.status).code, err };
}

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "dbf-process-" });
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test({
  name: "dbf compress under narrow permissions ends with 130 at SIGINT and SIGTERM, and run again gives the same bytes",
  ignore: Deno.build.os === "windows",
  fn: () =>
    withFolder(async (folder) => {
      const compress = async (out: string, signal?: Deno.Signal) => {
        await Deno.mkdir(out, { recursive: true });
        return await run([...narrow(out), "compress", MODEL, out, ...COMPRESS], signal);
      };
      const out = `${folder}/out`;
      for (const signal of ["SIGINT", "SIGTERM"] as const) {
        const { code, err } = await compress(out, signal);
        assertEquals(code, 130, err);
        assertMatch(err, /interrupted: run the same command again to resume\n$/);
        const names = [...Deno.readDirSync(out), ...Deno.readDirSync(`${out}/layers`)].map(({ name }) => name);
        assertEquals(names.filter((name) => /\.tmp$|\.lock$/.test(name)), []);
      }
      const resumed = await compress(out), whole = await compress(`${folder}/whole`);
      assertEquals([resumed.code, whole.code], [0, 0], resumed.err + whole.err);
      assertMatch(resumed.err, /"resumedLayers":[1-9]/);
      const [found, expected] = [await snapshot(out), await snapshot(`${folder}/whole`)];
      for (const files of [found, expected]) delete files["journal.jsonl"];
      assertEquals(found, expected);
    }),
});

Deno.test("dbf inspect gives back every permission but reading before it reads", () =>
  withFolder(async (folder) => {
    await Deno.writeTextFile(
      `${folder}/program.ts`,
      `
      import { runProcess } from "${ROOT}pipeline/cli/main.ts";
      const code = await runProcess(["inspect", "${MODEL}"]);
      const names = ["read", "write", "net", "env", "sys", "run", "ffi"] as const;
      console.error(JSON.stringify([code, names.filter((name) => Deno.permissions.querySync({ name }).state === "granted")]));
      Deno.exit(0);`,
    );
    const { err } = await run(["run", "-A", "--no-check", "--config", `${ROOT}deno.json`, `${folder}/program.ts`]);
    assertStringIncludes(err, '[0,["read"]]');
  }));
