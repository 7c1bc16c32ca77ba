import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { sha256 } from "../../../pipeline/artefact/durable.ts";
import { openArtefact } from "../../../pipeline/artefact/reader.ts";
import { compress } from "../../../pipeline/compress.ts";
import { fakeRuntime, fakeStages } from "../fake_stages.ts";

/** A small artefact to mangle; made once, copied for every test. */
async function makeArtefact(): Promise<string> {
  const out = await Deno.makeTempDir({ prefix: "dbf-artefact-" });
  await compress({
    model: "tests/fixtures/tiny-llama",
    out,
    bits: 0.5,
    blocks: [0, 0],
    stages: { factorization: "fake", target: "listing" },
  }, { runtime: fakeRuntime, plugins: fakeStages });
  return out;
}

interface Manifest {
  entries: Record<string, unknown>[];
  [field: string]: unknown;
}

const LAYER = "model.layers.0.self_attn.q_proj.weight";
const FILE = `layers/${LAYER}.g0.safetensors`;

async function withArtefact(
  body: (out: string, change: (edit: (manifest: Manifest) => void) => Promise<void>) => Promise<void>,
): Promise<void> {
  const out = await makeArtefact();
  try {
    const original = await Deno.readTextFile(`${out}/manifest.json`);
    await body(out, async (edit) => {
      const manifest = JSON.parse(original);
      edit(manifest);
      await Deno.writeTextFile(`${out}/manifest.json`, JSON.stringify(manifest));
    });
  } finally {
    await Deno.remove(out, { recursive: true });
  }
}

const entry = (manifest: Manifest, name = LAYER) => manifest.entries.find((one) => one.name === name)!;

Deno.test("openArtefact() refuses manifests with wrong fields, naming them", () =>
  withArtefact(async (out, change) => {
    const cases: [(manifest: Manifest) => void, string][] = [
      [(m) => void (m.version = 2), "version"],
      [(m) => void (entry(m).file = "../../etc/passwd"), "file"],
      [(m) => void (entry(m).file = "/etc/passwd"), "file"],
      [(m) => void (m.companions = ["../secret"]), "companions"],
      [(m) => void (entry(m).shape = [1e12, 1e12]), "shape"],
      [(m) => void (entry(m).bytes = -1), "bytes"],
      [(m) => void (entry(m).kind = "../x"), "kind"],
      [(m) => void (entry(m).sha256 = "x"), "sha256"],
      [(m) => void (entry(m).extra = 1), "extra"],
      [(m) => void m.entries.push(entry(m)), "twice"],
    ];
    for (const [edit, field] of cases) {
      await change(edit);
      await assertRejects(() => openArtefact(out), TypeError, field);
    }
    await Deno.writeTextFile(`${out}/manifest.json`, "[".repeat(100_000));
    await assertRejects(() => openArtefact(out), RangeError, "nested deeper than");
    await Deno.remove(`${out}/manifest.json`);
    await assertRejects(() => openArtefact(out), Error, "run compress again to finish it");
  }));

Deno.test("openArtefact() does not follow links out of the folder", () =>
  withArtefact(async (out) => {
    const outside = await Deno.makeTempFile();
    try {
      await Deno.copyFile(`${out}/${FILE}`, outside);
      await Deno.remove(`${out}/${FILE}`);
      await Deno.symlink(outside, `${out}/${FILE}`);
      using artefact = await openArtefact(out);
      await assertRejects(() => artefact.layer(LAYER), RangeError, "link out of its folder");
    } finally {
      await Deno.remove(outside);
    }
  }));

Deno.test("openArtefact() notices damaged, cut and lengthened layer files", () =>
  withArtefact(async (out) => {
    const bytes = await Deno.readFile(`${out}/${FILE}`);
    using artefact = await openArtefact(out);
    const damaged = bytes.slice();
    damaged[bytes.length - 5] ^= 1;
    await Deno.writeFile(`${out}/${FILE}`, damaged);
    await assertRejects(() => artefact.layer(LAYER), Error, "content is damaged");
    await Deno.writeFile(`${out}/${FILE}`, bytes.subarray(0, -1));
    await assertRejects(() => artefact.layer(LAYER), RangeError, `must have ${bytes.length} bytes`);
    await Deno.remove(`${out}/${FILE}`);
    await assertRejects(() => artefact.layer(LAYER), Error, "is missing");
    await assertRejects(() => artefact.layer("nothing"), Error, "no such entry");
  }));

Deno.test("openArtefact() refuses a dense entry whose file holds another shape", () =>
  withArtefact(async (out, change) => {
    await change((manifest) => void (entry(manifest, "model.norm.weight").shape = [7]));
    using artefact = await openArtefact(out);
    await assertRejects(() => artefact.readRows("model.norm.weight", 0, 1), TypeError, "[7]");
  }));

Deno.test("openArtefact() survives mangled layer files whose hash was made to fit", () =>
  withArtefact(async (out, change) => {
    const bytes = await Deno.readFile(`${out}/${FILE}`);
    const headerBytes = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true));
    await fc.assert(
      fc.asyncProperty(fc.nat(headerBytes - 1), fc.integer({ min: 1, max: 255 }), async (at, flip) => {
        const mangled = bytes.slice();
        mangled[at] ^= flip;
        await Deno.writeFile(`${out}/${FILE}`, mangled);
        await change((manifest) => void (entry(manifest).sha256 = sha256(mangled)));
        using artefact = await openArtefact(out);
        const layer = await artefact.layer(LAYER).catch((error) => {
          assert(error instanceof Error, String(error));
        });
        if (layer !== undefined) {
          const stored = Object.values(layer.tensors).reduce((total, { data }) => total + data.length, 0);
          assertEquals(stored, bytes.length - headerBytes);
        }
      }),
      { numRuns: 150, seed: 11 },
    );
  }));
