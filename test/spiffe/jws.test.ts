import { describe, expect, it } from 'vitest';
import { assembleJws, composeSigningInput, parseCompactJws } from '../../spiffe/jws.ts';
import { refusal } from './refusal.ts';

const token = (kid: string, sub: string): string => assembleJws(composeSigningInput({ alg: 'ES256', kid }, { sub }), Uint8Array.of(1, 2, 3));

describe('a compact JWS', () => {
  it('is read by its own header, however many headers were read before', () => {
    for (let round = 0; round < 3; round += 1) {
      for (let key = 0; key < 100; key += 1) {
        const { header, claims, signed } = parseCompactJws(token(`key-${key}`, `round-${round}`));
        expect([header['kid'], claims['sub']]).toEqual([`key-${key}`, `round-${round}`]);
        expect(token(`key-${key}`, `round-${round}`).startsWith(`${signed}.`)).toBe(true);
      }
    }
  });

  it('is read with a header of any length', () => {
    const long = 'k'.repeat(5_000);
    expect(parseCompactJws(token(long, 'a')).header['kid']).toBe(long);
    expect(parseCompactJws(token(long, 'b')).claims['sub']).toBe('b');
  });

  it('cannot change what is read of another with the same header', () => {
    const { header } = parseCompactJws(token('shared', 'a'));
    expect(Object.isFrozen(header)).toBe(true);
    expect(() => Object.assign(header, { alg: 'none' })).toThrow(TypeError);
    expect(parseCompactJws(token('shared', 'b')).header['alg']).toBe('ES256');
  });

  it('is refused as often as it is shown', () => {
    const [header = '', payload = '', signature = ''] = token('a', 'b').split('.');
    for (let time = 0; time < 2; time += 1) {
      expect(refusal(() => parseCompactJws(`${header}=.${payload}.${signature}`))).toBe('invalid jws.encoding');
      expect(refusal(() => parseCompactJws(`${header}.${payload}.`))).toBe('invalid jws.encoding');
      expect(refusal(() => parseCompactJws(`${header}.${payload}`))).toBe('invalid jws.form');
      expect(refusal(() => parseCompactJws(`${'a'.repeat(40_000)}.${payload}.${signature}`))).toBe('invalid jws.too-large');
    }
  });
});
