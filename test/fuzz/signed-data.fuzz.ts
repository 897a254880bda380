/**
 * Fuzzes the reader of signed messages and those of the documents in them; also that nothing altered still verifies. The keys
 * are new for each run, since none of what a reader must not do hangs on them.
 */
import { readInstance } from '../../server/admission/aws-iid.ts';
import { readMachine } from '../../server/admission/azure-imds.ts';
import { isSigner, readSignedData, verifySignedData, type SignedContent } from '../../server/admission/cms.ts';
import { parseCertificate } from '../../spiffe/x509/certificate.ts';
import { encodeSmallInteger } from '../../spiffe/x509/der-writer.ts';
import { forgeCertificate, nameOf, rsaPair } from '../help/forge.ts';
import { attributesOf, messageOf, oids, signerInfo, streamOf, withNull } from '../vectors/documents.ts';
import { refusing } from './target.ts';

export const name = 'signed-data';

const pair = rsaPair();
const serial = encodeSmallInteger(1);
const form = { signer: pair.privateKey, spki: pair.spki, subject: nameOf('signer'), issuer: nameOf('cloud'), serial, extensions: null };
const certificate = parseCertificate(forgeCertificate(form));
const signing = { key: pair.privateKey, issuer: nameOf('cloud'), serial };

const documents = [
  {
    accountId: '123456789012',
    availabilityZone: 'eu-central-1b',
    imageId: 'ami-0cbde744623b7506b',
    instanceId: 'i-0c5541936caf78c12',
    pendingTime: '2026-05-31T00:38:27Z',
    region: 'eu-central-1',
  },
  {
    nonce: '0123456789abcdef0123456789abcdef',
    subscriptionId: '5f130ffc-0a3e-4795-b691-4f56a12a5547',
    timeStamp: { createdOn: '06/01/26 00:00:00 -0000', expiresOn: '06/01/26 06:00:00 -0000' },
    vmId: 'bd8e7443-24a0-41f3-b949-8baf4fd1c573',
  },
].map((document) => Buffer.from(JSON.stringify(document)));

function messages(content: Uint8Array): readonly Uint8Array[] {
  const amazon = { content, signers: [signerInfo(content, { ...signing, attributes: attributesOf(content) })] };
  const names = { digestName: withNull(oids.rsaSha256), algorithm: withNull(oids.rsa) };
  const azure = { content, signers: [signerInfo(content, { ...signing, ...names })], digestNames: [names.digestName], certificates: [certificate.der] };
  return [streamOf(amazon), messageOf(amazon), messageOf(azure)];
}

export function corpus(): readonly Uint8Array[] {
  return documents.flatMap((document) => [document, ...messages(document)]);
}

export function run(input: Uint8Array): void {
  for (const streamed of [true, false]) {
    refusing(() => {
      const data = readSignedData(input, { streamed });
      if (!isSigner(data, certificate)) return;
      const { bytes } = verifySignedData(data, certificate);
      if (!documents.some((document) => document.equals(bytes))) throw new Error('something that nobody signed verifies');
    });
  }
  for (const read of [readInstance, readMachine]) {
    refusing(() => {
      read({ bytes: input, signer: certificate } as SignedContent);
    });
  }
}
