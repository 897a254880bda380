/**
 * Evidence: the token that the kubelet projects into the agent's own pod for the server's audience. What it proves, and
 * of whom, the server asks the cluster's API server.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import { readTrustedFile } from '../../runtime/files.ts';
import type { EvidenceSource } from './evidence.ts';

export interface K8sPsatSource {
  /** As the server's configuration names the cluster. */
  readonly cluster: string;
  readonly tokenFile: string;
}

const maxTokenBytes = 16 * 1024;

/**
 * The file is read again for each attempt, as kubelets replace it long before the token expires.
 * @throws (from `produce`) unavailable `evidence.k8s-psat.unreadable`, invalid `evidence.k8s-psat.token`
 */
export function k8sPsatEvidence({ cluster, tokenFile }: K8sPsatSource): EvidenceSource {
  return {
    type: 'k8s_psat',
    repeatable: true,
    async produce() {
      const payload = Buffer.from(JSON.stringify({ cluster, token: await readToken(tokenFile) }));
      return {
        payload,
        answer: () =>
          Promise.reject(new SpiffeError('denied', 'evidence.challenge.unexpected', 'a projected token answers no challenge')),
      };
    },
  };
}

async function readToken(file: string): Promise<string> {
  let bytes: Buffer;
  try {
    bytes = await readTrustedFile(file, maxTokenBytes);
  } catch (cause) {
    const why = cause instanceof SpiffeError ? { detail: { because: cause.reason }, cause } : { cause };
    throw new SpiffeError('unavailable', 'evidence.k8s-psat.unreadable', `the projected token ${file} cannot be read`, why);
  }
  const token = bytes.toString('latin1').trim();
  if (!/^[\x21-\x7e]+$/.test(token)) throw new SpiffeError('invalid', 'evidence.k8s-psat.token', `${file} holds no token`);
  return token;
}
