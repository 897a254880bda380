/**
 * Any bytes as a bundle: the decoder may refuse them, the conversion may call them invalid, and what it accepts must come
 * back the same from a second trip over the wire.
 */
import { isDeepStrictEqual } from 'node:util';
import { bundleFromMessage, bundleToMessage } from '../../proto/convert/bundle.ts';
import { loadServices } from '../../proto/load.ts';
import { isSpiffeError } from '../../spiffe/errors.ts';
import { authorityExtensions, ecPair, ed25519Pair, forgeCertificate, rsaPair } from '../help/forge.ts';

const service = 'spire.api.server.bundle.v1.Bundle';
const { responseType: bundleType } = loadServices(service)[service].GetBundle;

export const target = {
  name: 'bundle-message',

  corpus(): Uint8Array[] {
    const { privateKey, spki } = ecPair();
    const asn1 = forgeCertificate({ signer: privateKey, spki, extensions: authorityExtensions() });
    const bundle = {
      trust_domain: 'example.org',
      x509_authorities: [{ asn1 }, { asn1, tainted: true }],
      jwt_authorities: [
        { key_id: 'a', public_key: spki, expires_at: 1_700_000_000 },
        { key_id: 'b', public_key: rsaPair().spki, tainted: true },
      ],
      refresh_hint: 300,
      sequence_number: '18446744073709551615',
    };
    return [
      {},
      bundle,
      { ...bundle, jwt_authorities: [{ key_id: 'c', public_key: ed25519Pair().spki }] },
      { ...bundle, x509_authorities: [{ asn1: Buffer.concat([asn1, asn1]) }] },
      { trust_domain: 'example.org', wit_authorities: [{ key_id: 'w', public_key: spki }] },
    ].map((message) => bundleType.serialize(message));
  },

  run(input: Uint8Array): void {
    let message;
    try {
      message = bundleType.deserialize(Buffer.from(input));
    } catch {
      // The RPC layer makes a status of whatever the decoder throws.
      return;
    }
    let bundle;
    try {
      bundle = bundleFromMessage(message);
    } catch (error) {
      if (isSpiffeError(error, 'invalid')) return;
      throw error;
    }
    const again = bundleFromMessage(bundleType.deserialize(bundleType.serialize(bundleToMessage(bundle))));
    if (!isDeepStrictEqual(again, bundle)) throw new Error('an accepted bundle changes on its way back over the wire');
  },
};
