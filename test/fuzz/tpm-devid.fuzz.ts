/**
 * Fuzzes what nodes with a TPM send, whole and in its parts, starting from what an emulated TPM stated; also that nothing
 * altered is read as what it was.
 */
import { nameOf, readCertified, readPublicArea, readSignature, subjectPublicKeyInfo, withoutSize } from '../../runtime/tpm/structures.ts';
import { readEvidence, readResponse } from '../../server/admission/tpm/evidence.ts';
import { refusing, vectors } from './target.ts';

export const name = 'tpm-devid';

const { evidence } = vectors('tpm-devid.json') as { readonly evidence: Readonly<Record<string, string | readonly string[]>> };

export function corpus(): readonly Uint8Array[] {
  const parts = Object.values(evidence).flatMap((part) => (typeof part === 'string' ? [Buffer.from(part, 'base64')] : []));
  const response = { DevID: evidence['CertificationSignature'], CredActivation: Buffer.alloc(32).toString('base64') };
  return [Buffer.from(JSON.stringify(evidence)), Buffer.from(JSON.stringify(response)), ...parts];
}

export function run(input: Uint8Array): void {
  refusing(() => {
    readEvidence(input);
  });
  refusing(() => {
    readResponse(input);
  });
  refusing(() => {
    const area = readPublicArea(withoutSize(input));
    if (nameOf(area).length < 34) throw new Error('a name without a digest');
    subjectPublicKeyInfo(area.key);
  });
  refusing(() => {
    readCertified(input);
  });
  refusing(() => {
    readSignature(input);
  });
}
