// The ONNX file: found, opened, asked for images. What goes wrong is an Error whose message is for the reader.

const RUNTIME = "./vendor/ort.wasm.bundle.min.mjs";

/** A model from an address on this server; `facts` is the JSON that tenshot writes beside it, {} if it is not there. */
export async function fetchModel(address) {
  const url = new URL(address, location.href);
  if (url.origin !== location.origin) {
    throw new Error(`The model ${address} lies on another server. This page asks none but its own: copy it to models/ here.`);
  }
  const answer = await fetch(url).catch(() => null);
  if (!answer) throw new Error("The server does not answer. Is it still running?");
  if (!answer.ok) {
    throw new Error(
      `There is no model at ${address}. Make one with "tenshot export RUN --format onnx --out examples/web/models/model.onnx", ` +
        "or open a file below.",
    );
  }
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const beside = await fetch(`${url.href}.json`).catch(() => null);
  const facts = beside?.ok ? await beside.json().catch(() => ({})) : {};
  return open(bytes, url.pathname.split("/").pop(), facts);
}

/** A model from a file of the reader's own. */
export async function readModel(file) {
  return open(new Uint8Array(await file.arrayBuffer()), file.name, {});
}

async function open(bytes, name, facts) {
  let ort;
  try {
    ort = await import(RUNTIME);
  } catch {
    throw new Error('vendor/ is missing. In examples/web, run "npm ci" and "npm run build", then load this page again.');
  }
  ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;
  ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send
  ort.env.logLevel = "error";
  let session;
  try {
    // int8 weights are widened once, when the file is opened, not at every image.
    const extra = { session: { disable_quant_qdq: "1" } };
    session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"], extra });
  } catch (error) {
    throw new Error(`${name} cannot be opened as an ONNX model: ${firstLine(error)}`);
  }
  const shapes = Object.fromEntries(session.inputMetadata.map((each) => [each.name, each.shape]));
  if (!session.outputNames.includes("images") || shapes.z?.length !== 2) {
    await session.release();
    throw new Error(`${name} does not turn latents z into images. Export it with "--format onnx --onnx.input z".`);
  }
  return new Generator(ort, session, { name, facts, latentSize: shapes.z[1], isTruncatable: "truncation" in shapes });
}

class Generator {
  constructor(ort, session, about) {
    Object.assign(this, about);
    this.ort = ort;
    this.session = session;
    this.waiting = Promise.resolve();
  }

  /** The image of a latent: ImageData, opaque. One at a time: who asks meanwhile waits. */
  image(z, truncation) {
    const image = this.waiting.then(() => this.#run(z, truncation));
    this.waiting = image.catch(() => {});
    return image;
  }

  /** Frees the memory, when nothing runs any more. */
  async release() {
    await this.waiting;
    await this.session.release();
  }

  async #run(z, truncation) {
    const { Tensor } = this.ort;
    const feeds = { z: new Tensor("float32", z, [1, z.length]) };
    if (this.isTruncatable) feeds.truncation = new Tensor("float32", [truncation], []);
    const { images } = await this.session.run(feeds, ["images"]);
    const [, , height, width] = images.dims;
    const pixels = new ImageData(width, height);
    const plane = width * height;
    // [-1, 1] to [0, 255]; the array clamps and rounds.
    for (let i = 0; i < plane; i++) {
      for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = (images.data[c * plane + i] + 1) * 127.5;
      pixels.data[4 * i + 3] = 255;
    }
    images.dispose();
    return pixels;
  }
}

function firstLine(error) {
  return String(error?.message ?? error).split("\n")[0];
}
