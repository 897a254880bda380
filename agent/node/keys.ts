/** The agent's own key pairs: P-256, made off the main thread. Keys of workloads are made by `svids/receive.ts`. */
import { generateKeyPair, type KeyObject } from 'node:crypto';
import { promisify } from 'node:util';

export interface NodeKeys {
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array;
  readonly privateKey: KeyObject;
}

const generate = promisify(generateKeyPair);

export async function generateNodeKeys(): Promise<NodeKeys> {
  const { publicKey, privateKey } = await generate('ec', { namedCurve: 'P-256' });
  return { publicKey: publicKey.export({ type: 'spki', format: 'der' }), privateKey };
}
