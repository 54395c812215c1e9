// Copies what the page needs of onnxruntime-web into vendor/, so that it is served from here and from nowhere else.
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";

const from = new URL("node_modules/onnxruntime-web/", import.meta.url);
const to = new URL("vendor/", import.meta.url);
const files = ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];

const { name, version, license } = JSON.parse(await readFile(new URL("package.json", from), "utf8"));
await mkdir(to, { recursive: true });
for (const file of files) await copyFile(new URL(`dist/${file}`, from), new URL(file, to));
await writeFile(new URL("ORIGIN.txt", to), `${name} ${version}, licence ${license}, Microsoft Corporation\n`);
console.log(`vendor/: ${files.length} files of ${name} ${version}`);
