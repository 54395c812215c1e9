// Avatars of DiceBear styles as 128 px PNG: OUT/STYLE/shots and OUT/STYLE/heldout, each image from a seed of its own.
//
//     npm install @dicebear/core@9.4.3 @dicebear/collection@9.4.3 sharp@0.35.5
//     node make_avatars.mjs OUT SHOTS HELDOUT STYLE...
//
// SHOTS is 10 for the domains of the table; with 100 the first ten are the same (the pool of the ablation over shots).
import fs from 'node:fs';
import path from 'node:path';

import * as collection from '@dicebear/collection';
import { createAvatar } from '@dicebear/core';
import sharp from 'sharp';

const DRAWN = 256; // px, then halved
const SIDE = 128;

async function render(style, split, number, file) {
  const avatar = createAvatar(collection[style], { seed: `${style}/${split}/${number}`, size: DRAWN });
  await sharp(Buffer.from(avatar.toString()))
    .resize(SIDE, SIDE)
    .flatten({ background: '#ffffff' })
    .removeAlpha()
    .png({ compressionLevel: 9 })
    .toFile(file);
}

const [, , out, shots, heldOut, ...styles] = process.argv;
for (const style of styles) {
  for (const [split, count] of [['shots', Number(shots)], ['heldout', Number(heldOut)]]) {
    const folder = path.join(out, style, split);
    fs.mkdirSync(folder, { recursive: true });
    for (let number = 0; number < count; number++) {
      await render(style, split, number, path.join(folder, `${String(number).padStart(5, '0')}.png`));
    }
  }
}
