// From a seed to its latent, as tenshot does it, and a smooth way from latent to latent.
//
// tenshot draws the latent of seed 7 from the stream that is named "7/latent": the text's SHA-256 seeds a Mersenne Twister
// (Matsumoto and Nishimura 1998), and the Box-Muller transform (1958) makes normal numbers in blocks of 16, as
// torch.randn does on a CPU. So a seed here is the seed of `tenshot generate`.

const BLOCK = 16;

/** The latent of a seed, Float32Array of `size` standard normal numbers. Throws for fewer than 16, which torch draws otherwise. */
export function latent(seed, size) {
  if (size < BLOCK) throw new RangeError(`The model's latents have ${size} numbers; this page draws them from 16 on.`);
  const next = twister(firstWord(sha256(`${seed}/latent`)));
  const z = new Float32Array(size);
  for (let i = 0; i < size; i++) z[i] = uniform(next);
  for (let start = 0; start + BLOCK <= size; start += BLOCK) toNormal(z, start);
  if (size % BLOCK) {
    const start = size - BLOCK; // the last block overlaps the one before and is drawn anew
    for (let i = start; i < size; i++) z[i] = uniform(next);
    toNormal(z, start);
  }
  return z;
}

/**
 * The point at `position`, from 0 to keys.length - 1, of the Catmull-Rom spline through the keys, whose ends are continued
 * straight. At a whole number it is that key. The mapping network brings every z to one length by itself.
 */
export function along(keys, position) {
  const last = keys.length - 1;
  const from = Math.max(0, Math.min(Math.floor(position), last - 1));
  const t = position - from;
  const weights = [-t + 2 * t ** 2 - t ** 3, 2 - 5 * t ** 2 + 3 * t ** 3, t + 4 * t ** 2 - 3 * t ** 3, t ** 3 - t ** 2];
  const a = keys[from];
  const b = keys[Math.min(from + 1, last)];
  const before = from > 0 ? keys[from - 1] : a.map((value, i) => 2 * value - b[i]);
  const after = from + 2 <= last ? keys[from + 2] : b.map((value, i) => 2 * value - a[i]);
  return a.map((_, i) => (weights[0] * before[i] + weights[1] * a[i] + weights[2] * b[i] + weights[3] * after[i]) / 2);
}

/** A number from [0, 1) with 24 bits, which a float32 holds exactly. */
function uniform(next) {
  return (next() & 0xffffff) / 2 ** 24;
}

/** Sixteen uniform numbers at `start` to sixteen normal ones, each pair from the first and the second half. */
function toNormal(z, start) {
  for (let i = start; i < start + BLOCK / 2; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - z[i]));
    const angle = 2 * Math.PI * z[i + BLOCK / 2];
    z[i] = radius * Math.cos(angle);
    z[i + BLOCK / 2] = radius * Math.sin(angle);
  }
}

/** The lowest 32 bits of half the number whose first eight bytes, little-endian, are those of the digest. */
function firstWord(words) {
  const low = swapped(words[0]);
  const high = swapped(words[1]);
  return ((low >>> 1) | (high << 31)) >>> 0;
}

function swapped(word) {
  return ((word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24)) >>> 0;
}

/** MT19937: a function that gives the next 32-bit number. */
function twister(seed) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = 624;
  return () => {
    if (at === 624) {
      for (let i = 0; i < 624; i++) {
        const joined = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

/** SHA-256 (FIPS 180-4) of a short text, as eight 32-bit words. crypto.subtle has it only where a page is secure. */
function sha256(text) {
  const bytes = new TextEncoder().encode(text);
  const padded = new DataView(new ArrayBuffer(Math.ceil((bytes.length + 9) / 64) * 64));
  bytes.forEach((byte, i) => padded.setUint8(i, byte));
  padded.setUint8(bytes.length, 0x80);
  padded.setUint32(padded.byteLength - 4, bytes.length * 8);
  const primes = firstPrimes(64);
  const rounds = primes.map((p) => fraction(Math.cbrt(p)));
  const hash = primes.slice(0, 8).map((p) => fraction(Math.sqrt(p)));
  const turned = (x, n) => (x >>> n) | (x << (32 - n));
  for (let block = 0; block < padded.byteLength; block += 64) {
    const w = Array.from({ length: 16 }, (_, i) => padded.getUint32(block + 4 * i));
    for (let i = 16; i < 64; i++) {
      const [a, b] = [w[i - 15], w[i - 2]];
      const s0 = turned(a, 7) ^ turned(a, 18) ^ (a >>> 3);
      const s1 = turned(b, 17) ^ turned(b, 19) ^ (b >>> 10);
      w[i] = (w[i - 16] + s0 + w[i - 7] + s1) | 0;
    }
    let [a, b, c, d, e, f, g, h] = hash;
    for (let i = 0; i < 64; i++) {
      const s1 = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25);
      const one = (h + s1 + ((e & f) ^ (~e & g)) + rounds[i] + w[i]) | 0;
      const s0 = turned(a, 2) ^ turned(a, 13) ^ turned(a, 22);
      const two = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => (hash[i] = (hash[i] + value) | 0));
  }
  return hash.map((word) => word >>> 0);
}

function firstPrimes(count) {
  const found = [];
  for (let n = 2; found.length < count; n++) if (found.every((p) => n % p)) found.push(n);
  return found;
}

/** The first 32 bits behind the point. */
function fraction(x) {
  return Math.floor((x - Math.floor(x)) * 2 ** 32) | 0;
}
