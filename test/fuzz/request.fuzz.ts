/**
 * Fuzzes the reader of certification requests and their proof of possession.
 */
import { checkProofOfPossession, parseRequest } from '../../spiffe/x509/request.ts';
import type { RequestCase } from '../vectors/generate-requests.ts';
import { refusing, vectors } from './target.ts';

export const name = 'request';

export function corpus(): readonly Uint8Array[] {
  const cases = vectors('requests.json') as readonly RequestCase[];
  return cases.map(({ der }) => Buffer.from(der, 'base64')).filter(({ length }) => length < 8192);
}

export function run(input: Uint8Array): void {
  refusing(() => checkProofOfPossession(parseRequest(input)));
}
