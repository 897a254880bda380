/**
 * Any text as a file of PEM certificates: refused, or blocks that read back as the same after they are written.
 */
import { formatPemCertificates, parsePemCertificates } from '../../spiffe/pem.ts';
import { expected } from './expected.ts';
import { vectors } from './target.ts';

export const name = 'pem';

export function corpus(): Uint8Array[] {
  const { certificates } = { certificates: JSON.stringify(vectors('certificates.json')).match(/MII[A-Za-z0-9+/=]{200,}/g) ?? [] };
  const blocks = certificates.slice(0, 4).map((base64) => formatPemCertificates([Buffer.from(base64, 'base64')]));
  return [
    ...blocks,
    blocks.join(''),
    `text before\n${blocks[0] ?? ''}text after`,
    '-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n',
    '-----BEGIN PRIVATE KEY-----\nMII=\n-----END PRIVATE KEY-----\n',
    '',
  ].map((text) => Buffer.from(text));
}

export function run(input: Uint8Array): void {
  const certificates = expected(() => parsePemCertificates(Buffer.from(input).toString('latin1')));
  if (certificates === undefined) return;
  const again = parsePemCertificates(formatPemCertificates(certificates));
  if (again.length !== certificates.length) throw new Error('another number of certificates than was read');
  for (const [index, der] of certificates.entries()) {
    if (!Buffer.from(der).equals(again[index] ?? Buffer.alloc(0))) throw new Error('another certificate than was read');
  }
}
