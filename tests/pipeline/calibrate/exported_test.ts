import { assert } from "@std/assert";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { openArtefact } from "../../../pipeline/artefact/reader.ts";
import { openChain } from "../../../pipeline/calibrate/chain.ts";
import { openBlockEngine } from "../../../pipeline/calibrate/engine.ts";
import { committedWeights } from "../../../pipeline/calibrate/factor_weight.ts";
import { openHead } from "../../../pipeline/calibrate/head.ts";
import { encodeText, readText } from "../../../pipeline/calibrate/text.ts";
import { consecutiveWindows, sampleWindows } from "../../../pipeline/calibrate/windows.ts";
import { openCheckpoint } from "../../../pipeline/checkpoint/open.ts";
import { compress } from "../../../pipeline/compress.ts";
import { evaluate } from "../../../pipeline/evaluate/evaluate.ts";
import { openModel } from "../../../pipeline/evaluate/open_model.ts";
import { describeModel } from "../../../pipeline/model/describe.ts";
import { unpackFactors } from "../../../plugins/packing/unpack.ts";

const MODEL = "tests/fixtures/tiny-llama";

Deno.test("evaluate() of the exported model gives the perplexity that tuning sees, to 0.5 %", async () => {
  const out = await Deno.makeTempDir();
  await using runtime = await openRuntime({ threads: 1 });
  let reported = NaN;
  await compress({
    model: MODEL,
    out,
    bits: 1.5,
    calibration: { source: `${MODEL}/calibration.txt`, sequences: 4, length: 64 },
    stages: {
      importance: "fisher-diagonal",
      factorization: { use: "dbf-admm", options: { iterations: 6, sweeps: 1 } },
      reconstruction: ["block-tuning"],
      distillation: { use: "logits", options: { epochs: 1 } },
    },
  }, {
    runtime,
    onEvent(event) {
      if (event.type === "stage-end" && event.stage === "logits") reported = event.detail!.perplexity;
    },
  });
  await using model = await openModel(out, runtime);
  const text = encodeText(await readText(`${MODEL}/calibration.txt`), await model.tokenizer());
  const tuned = Int32Array.from(sampleWindows(text, 64, 4, 0).flatMap((window) => [...window]));
  const again = await evaluate(model, tuned, { context: 64 });
  assert(Math.abs(again.perplexity / reported - 1) < 5e-3, `exported ${again.perplexity}, reported ${reported}`);
  const ids = encodeText(await readText(`${MODEL}/heldout.txt`), await model.tokenizer(), 512);
  const exported = await evaluate(model, ids, { context: 64 });

  using checkpoint = await openCheckpoint(MODEL);
  using artefact = await openArtefact(out);
  const description = describeModel(checkpoint.config, checkpoint.tensors);
  await using engine = openBlockEngine(runtime, description, checkpoint);
  await using head = await openHead(runtime, description, checkpoint);
  const windows = consecutiveWindows(ids, 64);
  const factors = async (name: string) =>
    unpackFactors(name, artefact.entries.get(name)!.shape, await artefact.layer(name));
  using output = await openChain(
    { engine, windows, directory: `${out}/chain`, batch: 4 },
    "compressed",
    description.blocks.length,
    (block) => committedWeights(engine, block, factors),
  );
  using hidden = await output.tensor(windows.map((_, at) => at));
  const loss = await head.crossEntropy(hidden, windows);
  const seen = Math.exp(loss / (windows.length * 63));
  assert(Math.abs(exported.perplexity / seen - 1) < 5e-3, `exported ${exported.perplexity}, seen ${seen}`);
  await Deno.remove(out, { recursive: true });
});
