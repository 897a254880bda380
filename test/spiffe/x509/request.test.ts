import { readFileSync } from 'node:fs';

import { describe, expect, it } from 'vitest';

import { oid } from '../../../spiffe/x509/names.ts';
import { encodeName } from '../../../spiffe/x509/encoded.ts';
import { checkProofOfPossession, composeRequest, parseRequest } from '../../../spiffe/x509/request.ts';
import { ecPair, ed25519Pair, forgeRequest, nameOf, rsaPair, type Pair } from '../../help/forge.ts';
import { openssl } from '../../help/openssl.ts';
import type { RequestCase } from '../../vectors/generate-requests.ts';
import { refusal } from '../refusal.ts';

const file = readFileSync(new URL('../../vectors/requests.json', import.meta.url), 'utf8');
const cases = JSON.parse(file) as readonly RequestCase[];
const verdictOf = (der: Uint8Array): string =>
  refusal(() => checkProofOfPossession(parseRequest(der)))
    .replace(/^accepted$/, 'accept')
    .replace(/^\S+ /, '');

describe('T-C01 requests', () => {
  it('come in more than a hundred and twenty cases, each of its own name', () => {
    expect(cases.length).toBeGreaterThanOrEqual(120);
    expect(new Set(cases.map(({ name }) => name)).size).toBe(cases.length);
  });

  it.each(cases)('$name: $verdict', ({ der, verdict, asks }) => {
    const bytes = Buffer.from(der, 'base64');
    expect(verdictOf(bytes)).toBe(verdict);
    if (asks === undefined) return;
    const request = parseRequest(bytes);
    if (asks.uris !== undefined) expect(request.uris).toEqual(asks.uris);
    if (asks.dnsNames !== undefined) expect(request.dnsNames).toEqual(asks.dnsNames);
    if (asks.authority !== undefined) expect(request.asksAuthority).toBe(asks.authority);
  });

  it('T-C01 refuses a subject of 1 MB by its length alone', () => {
    const { privateKey, spki } = ecPair();
    const request = forgeRequest({ signer: privateKey, spki, subject: nameOf('x'.repeat(1_000_000)) });
    expect(verdictOf(request)).toBe('request.length');
  });
});

describe('composing', () => {
  const uris = ['spiffe://example.org/web'];
  const dnsNames = ['web.example.org', 'www.example.org'];

  it.each<readonly [string, Pair]>([
    ['P-256', ecPair()],
    ['P-384', ecPair('P-384')],
    ['P-521', ecPair('P-521')],
    ['RSA', rsaPair()],
  ])('with a key of %s yields what reads back and openssl verifies', (name, { privateKey, spki }) => {
    const der = composeRequest({ privateKey, uris, dnsNames });
    const request = parseRequest(der);
    checkProofOfPossession(request);
    expect(request).toMatchObject({ uris, dnsNames, keyAlgorithm: name, asksAuthority: false, asksOtherNames: false });
    expect(Buffer.compare(request.publicKey, spki)).toBe(0);
    const printed = openssl(['req', '-inform', 'der', '-verify', '-noout', '-subject', '-text'], der);
    if (printed === undefined) return;
    expect(printed).toContain('URI:spiffe://example.org/web');
    expect(printed).toMatch(/subject=C ?= ?US, O ?= ?SPIRE/);
  });

  it('without names asks for nothing and is called C=US, O=SPIRE', () => {
    const { privateKey, spki } = ecPair();
    const request = parseRequest(composeRequest({ privateKey, publicKey: spki }));
    expect(request).toMatchObject({ uris: [], dnsNames: [] });
    const subject = encodeName([
      [oid.country, 'US'],
      [oid.organization, 'SPIRE'],
    ]);
    expect(Buffer.compare(request.subject, subject)).toBe(0);
  });

  it('takes over a subject', () => {
    const { privateKey } = ecPair();
    expect(
      Buffer.from(parseRequest(composeRequest({ privateKey, subject: nameOf('me') })).subject),
    ).toEqual(Buffer.from(nameOf('me')));
  });

  it('refuses keys that no request may carry', () => {
    expect(refusal(() => composeRequest(ed25519Pair()))).toBe('unsupported key.algorithm');
  });
});
