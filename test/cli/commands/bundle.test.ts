import { X509Certificate } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parsePemCertificates } from '../../../spiffe/pem.ts';
import { testAuthority } from '../../help/agent-server.ts';
import { type Finished, steeple } from '../../help/cli.ts';
import { type LiveServer, startLiveServer } from '../../help/live-server.ts';

let server: LiveServer;
beforeAll(async () => {
  server = await startLiveServer();
});
afterAll(async () => server[Symbol.asyncDispose]());

function ask(words: string, ...args: string[]): Promise<Finished> {
  return steeple([...words.split(' '), '--socket', server.socket, ...args]);
}

async function asked(words: string, ...args: string[]): Promise<unknown> {
  const { code, out, err } = await ask(words, ...args, '--output', 'json');
  expect([code, err]).toEqual([0, '']);
  return JSON.parse(out);
}

describe('bundle', () => {
  const foreign = testAuthority('foreign');

  it('show prints PEM, or the bundle document', async () => {
    const { out } = await ask('bundle show');
    expect(new X509Certificate(out).ca).toBe(true);
    const document = JSON.parse((await ask('bundle show', '--format', 'spiffe')).out) as { keys: { use: string }[] };
    expect(document.keys.map(({ use }) => use).toSorted()).toEqual(['jwt-svid', 'x509-svid']);
  });

  it('set, list, count and delete those of others', async () => {
    const file = join(server.directory, 'foreign.pem');
    const pem = `-----BEGIN CERTIFICATE-----\n${Buffer.from(foreign.certificate).toString('base64')}\n-----END CERTIFICATE-----\n`;
    await writeFile(file, pem);
    expect(await ask('bundle set', '--id', 'other.test', '--path', file)).toEqual({ code: 0, out: 'bundle set\n', err: '' });
    expect((await ask('bundle list')).out).toMatch(/^other\.test +1 +0 /m);
    const listed = (await ask('bundle list', '--id', 'spiffe://other.test')).out;
    expect(parsePemCertificates(listed).map((der) => Buffer.from(der).equals(foreign.certificate))).toEqual([true]);
    expect((await ask('bundle count')).out).toBe('2\n');
    const document = (await ask('bundle list', '-id', 'other.test', '-format', 'spiffe')).out;
    expect(await steeple(['bundle', 'set', '--socket', server.socket, '--id', 'third.test', '--format', 'spiffe'], { input: document })).toMatchObject({ code: 0 });
    for (const id of ['other.test', 'third.test']) expect((await ask('bundle delete', '--id', id)).out).toBe('bundle deleted\n');
    expect(await asked('bundle count')).toEqual({ count: 1 });
    expect((await ask('bundle delete', '--id', 'other.test')).code).toBe(1);
  });

  it.each([
    ['whose bundle it is', ['bundle', 'set'], ''],
    ['PEM', ['bundle', 'set', '--id', 'other.test'], 'no certificate'],
    ['a document', ['bundle', 'set', '--id', 'other.test', '--format', 'spiffe'], '{"keys": 1}'],
    ['a trust domain', ['bundle', 'delete', '--id', 'Not Valid'], ''],
    ['a file that can be read', ['bundle', 'set', '--id', 'other.test', '--path', '/nonexistent/x'], ''],
  ])('wants %s', async (_what, words, input) => {
    expect((await steeple([...words, '--socket', server.socket], { input })).code).toBe(2);
  });
});
