import { X509Certificate, createPrivateKey } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { receiveWitSvid } from '../../../spiffe/wit-svid.ts';
import { type Finished, steeple } from '../../help/cli.ts';
import { type LiveServer, startLiveServer } from '../../help/live-server.ts';

let server: LiveServer;
beforeAll(async () => {
  server = await startLiveServer('authorities: { wit: {} }\n');
});
afterAll(async () => server[Symbol.asyncDispose]());

function ask(words: string, ...args: string[]): Promise<Finished> {
  return steeple([...words.split(' '), '--socket', server.socket, ...args]);
}

describe('mint', () => {
  it('prints an X509-SVID with its key, made here, and the bundle', async () => {
    const { out } = await ask('x509 mint', '--spiffe-id', 'spiffe://example.org/minted', '--ttl', '5m', '--dns', 'a.example');
    const certificate = new X509Certificate(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/.exec(out)?.[0] ?? '');
    const key = createPrivateKey(/-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/.exec(out)?.[0] ?? '');
    expect(certificate.checkPrivateKey(key)).toBe(true);
    expect(certificate.subjectAltName).toBe('DNS:a.example, URI:spiffe://example.org/minted');
    expect(out.split('BEGIN CERTIFICATE')).toHaveLength(3);
  });

  it('writes files that are not there yet, the key for its owner alone', async () => {
    const dir = join(server.directory, 'minted');
    expect(await ask('x509 mint', '--spiffe-id', 'spiffe://example.org/minted', '-write', dir)).toMatchObject({ code: 0, out: '' });
    expect((await stat(join(dir, 'key.pem'))).mode & 0o777).toBe(0o600);
    expect(new X509Certificate(await readFile(join(dir, 'svid.pem'))).checkPrivateKey(createPrivateKey(await readFile(join(dir, 'key.pem'))))).toBe(true);
    expect(await ask('x509 mint', '--spiffe-id', 'spiffe://example.org/minted', '--dir', dir)).toMatchObject({ code: 1, err: expect.stringContaining('cli.file.exists') });
  });

  it('prints a JWT-SVID', async () => {
    const { out } = await ask('jwt mint', '--spiffe-id', 'spiffe://example.org/minted', '--audience', 'db', '--audience', 'cache');
    const claims = JSON.parse(Buffer.from(out.split('.')[1] ?? '', 'base64url').toString()) as { sub: string; aud: string[] };
    expect(claims).toMatchObject({ sub: 'spiffe://example.org/minted', aud: ['db', 'cache'] });
  });

  it('prints a WIT-SVID with its key, made here', async () => {
    const { out } = await ask('wit mint', '--spiffe-id', 'spiffe://example.org/minted', '--ttl', '5m', '--output', 'json');
    const { token, key } = JSON.parse(out) as { token: string; key: object };
    const svid = receiveWitSvid(token, JSON.stringify(key));
    expect(svid.spiffeId).toBe('spiffe://example.org/minted');
    expect(svid.expiresAt - (svid.issuedAt ?? 0)).toBe(300_000);
    const plain = await ask('wit mint', '--spiffe-id', 'spiffe://example.org/minted');
    const [, printed = '', jwk = ''] = /^WIT-SVID:\n(\S+)\n\nPrivate key:\n(\S+)\n$/.exec(plain.out) ?? [];
    expect(receiveWitSvid(printed, jwk).spiffeId).toBe('spiffe://example.org/minted');
  });

  it.each([
    ['no identity for a WIT-SVID', 'wit mint', [], 2],
    ['no identity', 'x509 mint', [], 2],
    ['no audience', 'jwt mint', ['--spiffe-id', 'spiffe://example.org/a'], 2],
    ['another trust domain', 'x509 mint', ['--spiffe-id', 'spiffe://other.test/a'], 2],
  ])('refuses %s', async (_what, words, args, code) => {
    expect((await ask(words, ...args)).code).toBe(code);
  });
});
