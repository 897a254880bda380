import fc from 'fast-check';
import { expect, it } from 'vitest';

import { formatPemCertificates, parsePemCertificates } from '../../spiffe/pem.ts';
import { certificateOf, readAuthorities } from '../vectors/generate-authorities.ts';
import { refusal } from './refusal.ts';

const authorities = readAuthorities();
const [one, two] = [certificateOf(authorities.p256), certificateOf(authorities.rsa2048)];
const pem = formatPemCertificates([one, two]);
const block = (body: string, label = 'CERTIFICATE'): string => `-----BEGIN ${label}-----\n${body}\n-----END ${label}-----\n`;

it('reads what it writes, in order', () => {
  expect(parsePemCertificates(pem)).toEqual([one, two]);
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ minLength: 1, maxLength: 200 }), { minLength: 1, maxLength: 4 }), (blocks) => {
      expect(parsePemCertificates(formatPemCertificates(blocks))).toEqual(blocks.map((bytes) => Buffer.from(bytes)));
    }),
  );
});

it('writes lines of 64 characters, each ended', () => {
  const lines = pem.split('\n');
  expect(Math.max(...lines.map((line) => line.length))).toBe(64);
  expect(lines.at(-1)).toBe('');
});

it.each([
  ['text around', `# our roots\n${pem}subject=O = SPIFFE\n`],
  ['other line ends', pem.replaceAll('\n', '\r\n')],
  ['no last line end', pem.trimEnd()],
  ['spaces at line ends', pem.replaceAll('\n', ' \n')],
  ['one long line', [one, two].map((der) => block(Buffer.from(der).toString('base64'))).join('')],
])('reads past %s', (_, text) => {
  expect(parsePemCertificates(text)).toEqual([one, two]);
});

it.each([
  ['nothing', '', 'pem.empty'],
  ['text alone', 'hello', 'pem.empty'],
  ['DER', Buffer.from(one).toString('latin1'), 'pem.empty'],
  ['a private key', block(authorities.p256.privateKey, 'PRIVATE KEY'), 'pem.block-kind'],
  ['a private key behind a certificate', `${pem}${block('AAAA', 'EC PRIVATE KEY')}`, 'pem.block-kind'],
  ['a trusted certificate', block('AAAA', 'TRUSTED CERTIFICATE'), 'pem.block-kind'],
  ['an empty block', block(''), 'pem.malformed'],
  ['a block without end', pem.slice(0, -10), 'pem.malformed'],
  ['an end without beginning', '-----END CERTIFICATE-----', 'pem.malformed'],
  ['a block in a block', `-----BEGIN CERTIFICATE-----\n${pem}`, 'pem.malformed'],
  ['another end', '-----BEGIN CERTIFICATE-----\nAAAA\n-----END PRIVATE KEY-----', 'pem.malformed'],
  ['junk in a block', block('AA!A'), 'pem.malformed'],
  ['headers in a block', block('Proc-Type: 4,ENCRYPTED\n\nAAAA'), 'pem.malformed'],
  ['wrong padding', block('AAAAA'), 'pem.malformed'],
  ['too much', ' '.repeat(4_194_305), 'pem.too-large'],
])('refuses %s', (_, text, reason) => {
  expect(refusal(() => parsePemCertificates(text))).toBe(`invalid ${reason}`);
});
