// Code that V8 compiles, throws away and compiles again; typed arrays, BigInt, regular expressions, a worker, WebAssembly.
const assert = require('assert'), crypto = require('crypto');
function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
assert.strictEqual(fib(27), 196418);
function add(a, b) { return a + b; }
for (let i = 0; i < 200000; i++) add(i, 1);
assert.strictEqual(add('a', 1), 'a1'); // other types than it was compiled for
for (let i = 0; i < 200000; i++) add(i + 0.5, 1);
assert.strictEqual(add(0.1, 0.2).toFixed(17), '0.30000000000000004');
const f = new Float64Array(1 << 16).map((_, i) => Math.sin(i));
assert(Math.abs(f.reduce((a, b) => a + b * b, 0) - 32768) < 2);
let big = 1n; for (let i = 1n; i <= 500n; i++) big *= i;
assert.strictEqual(big.toString().length, 1135);
const words = new Map();
for (let i = 0; i < 300000; i++) { const k = 'w' + (i * 7919) % 1009; words.set(k, (words.get(k) || 0) + 1); }
assert.strictEqual(words.size, 1009);
assert.strictEqual('x'.repeat(1000).replace(/x{3}/g, 'y').length, 334);
assert.strictEqual(crypto.createHash('sha256').update('abc').digest('hex').slice(0, 16), 'ba7816bf8f01cfea');
for (let i = 0; i < 300; i++) assert.strictEqual(new Function('a', `return a * ${i} + ${i};`)(2), 3 * i); // new code each time
const wasm = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 7, 1, 96, 2, 127, 127, 1, 127, 3, 2, 1, 0, 7, 7, 1, 3, 97, 100, 100, 0, 0, 10, 9, 1, 7, 0, 32, 0, 32, 1, 106, 11]);
assert.strictEqual(new WebAssembly.Instance(new WebAssembly.Module(wasm)).exports.add(40, 2), 42);
const { Worker } = require('worker_threads');
const w = new Worker('const {parentPort} = require("worker_threads"); let s = 0; for (let i = 0; i < 1e6; i++) s += i; parentPort.postMessage(s)', { eval: true });
w.on('message', (s) => { assert.strictEqual(s, 499999500000); console.log('check.js: all is right'); });
