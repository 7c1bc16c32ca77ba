import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import fc from "fast-check";
import { describeDifferences, fingerprintDifferences } from "../../../pipeline/artefact/fingerprint.ts";
import { encodeLine, type JournalLine, openJournalWriter, readJournal } from "../../../pipeline/artefact/journal.ts";
import { lockDirectory } from "../../../pipeline/artefact/lock.ts";
import { ENTRY_FILE_PATTERN, entryFileName } from "../../../pipeline/artefact/names.ts";

const LINES: readonly JournalLine[] = [
  { type: "run", version: 1, fingerprint: { seed: 1, note: "ünïcode" } },
  {
    type: "commit",
    name: "w",
    kind: "dense",
    shape: [2],
    generation: 0,
    file: "w.g0.safetensors",
    bytes: 80,
    sha256: "0".repeat(64),
    attributes: { rank: 3 },
    source: "1".repeat(64),
  },
  { type: "state", name: "importance", file: "x.state", sha256: "2".repeat(64) },
  { type: "export", target: "onnx", directory: "onnx" },
];

async function withFile(content: string | Uint8Array, body: (path: string) => Promise<void>): Promise<void> {
  const path = await Deno.makeTempFile();
  try {
    await Deno.writeFile(path, typeof content === "string" ? new TextEncoder().encode(content) : content);
    await body(path);
  } finally {
    await Deno.remove(path);
  }
}

Deno.test("readJournal() gives back what was appended", () =>
  withFile("", async (path) => {
    {
      using writer = await openJournalWriter(path, 0);
      for (const line of LINES) await writer.append(line);
    }
    const { lines, torn, goodBytes } = await readJournal(path);
    assertEquals(lines, LINES);
    assertEquals([torn, goodBytes], [false, (await Deno.stat(path)).size]);
  }));

Deno.test("readJournal() tolerates a last line torn at any byte, and appending goes on from the good part", () =>
  withFile("", async (path) => {
    const whole = new TextEncoder().encode(LINES.map(encodeLine).join(""));
    const good = new TextEncoder().encode(LINES.slice(0, 3).map(encodeLine).join("")).length;
    for (let cut = good + 1; cut < whole.length; cut++) {
      await Deno.writeFile(path, whole.subarray(0, cut));
      const { lines, torn, goodBytes } = await readJournal(path);
      assertEquals([lines.length, torn, goodBytes], [3, true, good]);
    }
    using writer = await openJournalWriter(path, good);
    await writer.append(LINES[3]);
    assertEquals(await Deno.readFile(path), whole);
  }));

Deno.test("readJournal() refuses damage before the last line, and a journal without a run", async () => {
  const text = LINES.map(encodeLine).join("");
  await withFile(text.replace('"seed":1', '"seed":2'), async (path) => {
    await assertRejects(() => readJournal(path), Error, "line 1 is damaged: use --restart");
  });
  await withFile(encodeLine(LINES[1]), async (path) => {
    await assertRejects(() => readJournal(path), Error, "not described by the first line");
  });
});

Deno.test("readJournal() never takes a changed byte for good, and never crashes on one", async () => {
  const whole = new TextEncoder().encode(LINES.map(encodeLine).join(""));
  await fc.assert(
    fc.asyncProperty(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 }), async (at, flip) => {
      const bytes = whole.slice();
      bytes[at] ^= flip;
      await withFile(bytes, async (path) => {
        const read = await readJournal(path).catch((error) => {
          assert(error instanceof Error && error.message.includes(path));
        });
        read?.lines.forEach((line, index) => assertEquals(line, LINES[index]));
        assert(read === undefined || read.lines.length < LINES.length);
      });
    }),
    { numRuns: 150, seed: 3 },
  );
});

Deno.test("lockDirectory() refuses a second owner with the first's pid and start time, and takes over a dead one's", async () => {
  const directory = await Deno.makeTempDir();
  try {
    {
      using first = await lockDirectory(directory);
      assertEquals(first.takenOverFrom, undefined);
      const error = await assertRejects(() => lockDirectory(directory), Error);
      assertStringIncludes(error.message, `process ${Deno.pid}, started 20`);
    }
    assertEquals([...Deno.readDirSync(directory)], []);
    // What a killed process leaves: the file without the system's lock.
    await Deno.writeTextFile(`${directory}/dbf.lock`, '{"pid":123456,"startedAt":"2026-01-01T00:00:00.000Z"}\n');
    using next = await lockDirectory(directory);
    assertEquals(next.takenOverFrom, { pid: 123456, startedAt: "2026-01-01T00:00:00.000Z" });
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("lockDirectory() works across processes: a killed owner's lock is free at once", async () => {
  const directory = await Deno.makeTempDir();
  const script = `${directory}/hold.ts`;
  const lock = new URL("../../../pipeline/artefact/lock.ts", import.meta.url).href;
  await Deno.mkdir(`${directory}/out`);
  await Deno.writeTextFile(
    script,
    `import { lockDirectory } from ${JSON.stringify(lock)};
     const held = await lockDirectory(Deno.args[0]);
     console.log("held");
     await new Promise((resolve) => setTimeout(resolve, 60_000));
     held[Symbol.dispose]();`,
  );
  try {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-check", "-A", script, `${directory}/out`],
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const reader = child.stdout.getReader();
    await reader.read();
    await assertRejects(() => lockDirectory(`${directory}/out`), Error, `process ${child.pid}`);
    child.kill("SIGKILL");
    await child.status;
    await reader.cancel();
    using next = await lockDirectory(`${directory}/out`);
    assertEquals(next.takenOverFrom?.pid, child.pid);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("entryFileName() maps distinct names to distinct plain file names, also ignoring case", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", maxLength: 400 }), fc.string({ maxLength: 20 }), (a, b) => {
      const [x, y] = [entryFileName(a, 0), entryFileName(b, 12)];
      for (const name of [x, y]) assert(ENTRY_FILE_PATTERN.test(name) || a === "" || b === "", name);
      if (new TextDecoder().decode(new TextEncoder().encode(a)) === b) return;
      assert(entryFileName(a, 0).toLowerCase() !== entryFileName(b, 0).toLowerCase());
    }),
    { seed: 5 },
  );
  assert(entryFileName("A", 0).toLowerCase() !== entryFileName("a", 0).toLowerCase());
  assert(!/^\.|[/\\]/.test(entryFileName("../../etc/passwd", 1)));
});

Deno.test("fingerprintDifferences() names nested fields, list items and absent ones", () => {
  const before = { stages: { reconstruction: [{ name: "a" }] }, seed: 0, threads: 2 };
  const now = { stages: { reconstruction: [{ name: "b" }, { name: "c" }] }, seed: 0 };
  const differences = fingerprintDifferences(before, now);
  assertEquals(differences.map(({ field }) => field), [
    "stages.reconstruction.0.name",
    "stages.reconstruction.1",
    "threads",
  ]);
  assertStringIncludes(describeDifferences("out", differences), "threads was 2 and is now absent");
});
