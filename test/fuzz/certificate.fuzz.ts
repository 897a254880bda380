/**
 * Fuzzes the certificate parser and what is asked of a leaf; also that nothing altered still verifies.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import { checkLeaf } from '../../spiffe/x509-svid.ts';
import { parseCertificate, splitCertificates } from '../../spiffe/x509/certificate.ts';
import { verifyX509Svid } from '../../spiffe/x509/verify.ts';
import type { CertificateCase } from '../vectors/generate-certificates.ts';
import { refusing, vectors } from './target.ts';

export const name = 'certificate';

const cases = vectors('certificates.json') as readonly CertificateCase[];
const right = cases.find((row) => row.name === 'right leaf');
const authorities = (right?.authorities ?? []).map((der) => Uint8Array.from(Buffer.from(der, 'base64')));
/** Bodies that an authority of the vectors did sign: with a changed signature of ECDSA they may still be right. */
const signed = new Set(cases.flatMap(({ chain }) => chain).flatMap(bodyOf));

export function corpus(): readonly Uint8Array[] {
  return [
    ...new Set(cases.flatMap(({ chain, authorities: above }) => [...chain, ...above])),
  ].map((der) => Buffer.from(der, 'base64'));
}

export function run(input: Uint8Array): void {
  refusing(() => {
    checkLeaf(parseCertificate(input));
  });
  refusing(() => {
    splitCertificates(input).map(parseCertificate);
  });
  refusing(() => {
    if (verifies(input) && !bodyOf(Buffer.from(input).toString('base64')).some((body) => signed.has(body))) {
      throw new Error('a certificate that nobody signed verifies');
    }
  });
}

function verifies(input: Uint8Array): boolean {
  try {
    verifyX509Svid({ chain: [input], authorities, at: right?.at ?? 0 });
    return true;
  } catch (error) {
    if (error instanceof SpiffeError && error.kind === 'unauthenticated') return false;
    throw error;
  }
}

function bodyOf(base64: string): readonly string[] {
  try {
    return [Buffer.from(parseCertificate(Buffer.from(base64, 'base64')).tbs).toString('base64')];
  } catch {
    return [];
  }
}
