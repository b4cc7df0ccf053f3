// SPDX-License-Identifier: BSD-2-Clause
// Work for V8's compilers: functions get hot, are optimized, and are thrown away when a type that
// they did not expect comes. Nothing that is printed depends on time or addresses.
'use strict';

function sieve(n) {
    const composite = new Uint8Array(n + 1);
    let count = 0;
    for (let i = 2; i <= n; i++) {
        if (composite[i]) continue;
        count++;
        for (let k = i * i; k <= n; k += i) composite[k] = 1;
    }
    return count;
}

function matrix(n) {
    const a = [], b = [];
    for (let i = 0; i < n; i++) {
        a.push(new Float64Array(n).map((_, j) => (i + 2 * j) * 0.5));
        b.push(new Float64Array(n).map((_, j) => (i * j) % 7 - 3));
    }
    let trace = 0;
    for (let i = 0; i < n; i++)
        for (let j = 0; j < n; j++) {
            let s = 0;
            for (let k = 0; k < n; k++) s += a[i][k] * b[k][j];
            if (i === j) trace += s;
        }
    return trace;
}

function add(a, b) { return a + b; }

// Integers, then doubles, then strings, then objects: each change makes optimized code invalid.
function changing(n) {
    let i = 0, d = 0.5, s = '', o = 0;
    for (let k = 0; k < n; k++) i = add(i, k) % 65521;
    for (let k = 0; k < n; k++) d = add(d, k * 0.25) % 1009;
    for (let k = 0; k < 500; k++) s = add(s, String.fromCharCode(97 + k % 26));
    for (let k = 0; k < n; k++) o = (o + add(1, { valueOf: () => k })) % 65521;
    return [i, d, s.length, o].join(' ');
}

function generated(n) {
    let sum = 0;
    for (let k = 0; k < n; k++) {
        const f = new Function('x', `for (let i = 0; i < 300; i++) x = (x * ${k % 251 + 2} + i) % 65521; return x;`);
        sum = (sum + f(k)) % 1000003;
    }
    return sum;
}

function strings(n) {
    const words = new Map();
    for (let k = 0; k < n; k++) {
        const w = 'w' + (k * 7919 % 1009).toString(36);
        words.set(w, (words.get(w) || 0) + 1);
    }
    return [...words].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, 3).join(';');
}

function big(n) {
    let a = 0n, b = 1n;
    for (let k = 0; k < n; k++) [a, b] = [b, a + b];
    return a.toString().slice(-40);
}

console.log('sieve', sieve(2000000));
console.log('matrix', matrix(140));
console.log('changing', changing(300000));
console.log('generated', generated(2000));
console.log('strings', strings(300000));
console.log('big', big(3000));
console.log('regexp', 'abcabcaabbcc'.repeat(500).replace(/a+b*(c)/g, '<$1>').length);
console.log('json', JSON.stringify(JSON.parse(JSON.stringify({ a: [1, 2.5, 'x'], b: { c: null } }))));
console.log('hash', require('crypto').createHash('sha256').update('a'.repeat(100000)).digest('hex'));
(async () => {
    let sum = 0;
    for (let k = 0; k < 20000; k++) sum += await k % 7;
    console.log('async', sum);
})();
