/**
 * The thread behind `proof.ts`: reads requests, checks that they are signed by the key they carry, and answers in order.
 */
import { parentPort } from 'node:worker_threads';
import { SpiffeError } from '../../spiffe/errors.ts';
import { checkProofOfPossession, parseRequest, type CertificateRequest } from '../../spiffe/x509/request.ts';
import type { ProofAnswer, ProofJob, ProofVerdict } from './proof.ts';

function verdictOf(der: Uint8Array): ProofVerdict {
  let request: CertificateRequest;
  try {
    request = parseRequest(der);
  } catch (error) {
    return faultOf('malformed', error);
  }
  try {
    checkProofOfPossession(request);
  } catch (error) {
    return faultOf('signature', error);
  }
  return { publicKey: Uint8Array.from(request.publicKey) };
}

function faultOf(fault: 'malformed' | 'signature', error: unknown): ProofVerdict {
  if (error instanceof SpiffeError) return { fault, message: error.message, reason: error.reason };
  // What the crypto library says of a key it cannot use may quote it.
  return { fault, message: 'cannot be verified', reason: 'request.unverifiable' };
}

parentPort?.on('message', ({ id, requests }: ProofJob) => {
  parentPort?.postMessage({ id, verdicts: requests.map(verdictOf) } satisfies ProofAnswer);
});
