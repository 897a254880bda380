/**
 * The seam to whatever keeps signing keys: it generates, signs, lists and forgets by name, and the private keys stay
 * inside. Which key is active for what is `slots.ts`.
 */
import type { KeyType } from '../store/store.ts';

export interface StoredKey {
  readonly name: string;
  readonly type: KeyType;
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array;
}

/** How the signature is laid out: DER for certificates, r‖s (RFC 7515) for JOSE. RSA keys sign PKCS#1 v1.5 either way. */
export type SignatureForm = 'der' | 'jose';

/** All methods throw unavailable `keys.unavailable` when the keys cannot be reached now. */
export interface KeyStore {
  /** Durable before it resolves. @throws exists `keys.exists` */
  generate(name: string, type: KeyType): Promise<StoredKey>;
  list(): Promise<readonly StoredKey[]>;
  /** Signs with the hash that belongs to the key: SHA-256, for P-384 SHA-384. @throws missing `keys.missing` */
  sign(name: string, data: Uint8Array, form: SignatureForm): Promise<Uint8Array>;
  /** Forgetting what is not there is no error. */
  forget(name: string): Promise<void>;
  close(): Promise<void>;
}
