/**
 * Certificates in PEM files: DER blocks out of text and back [RFC 7468]. What is in the blocks is left to the readers of
 * certificates; private keys are never read here.
 */
import { decodeBase64, encodeBase64 } from './base64.ts';
import { SpiffeError } from './errors.ts';

const maxPemBytes = 4_194_304;
const lineLength = 64;
const begin = /^-----BEGIN ([A-Z0-9 ]+)-----$/;

/**
 * The certificates of a file, in order. Text around the blocks is a comment; blocks of another kind are refused,
 * because a private key does not belong into a bundle.
 * @throws invalid `pem.too-large|empty|block-kind|malformed`
 */
export function parsePemCertificates(text: string): readonly Uint8Array[] {
  if (text.length > maxPemBytes) throw new SpiffeError('invalid', 'pem.too-large', 'PEM text is too large');
  const certificates: Uint8Array[] = [];
  let body: string | undefined;
  for (const line of text.split(/\r?\n/).map((raw) => raw.trim())) {
    const label = begin.exec(line)?.[1];
    if (label !== undefined) {
      if (body !== undefined) throw malformed();
      if (label !== 'CERTIFICATE') {
        throw new SpiffeError('invalid', 'pem.block-kind', 'PEM text holds something else than certificates');
      }
      body = '';
    } else if (line === '-----END CERTIFICATE-----') {
      if (body === undefined) throw malformed();
      certificates.push(readBlock(body));
      body = undefined;
    } else if (line.startsWith('-----')) throw malformed();
    else if (body !== undefined) body += line;
  }
  if (body !== undefined) throw malformed();
  if (certificates.length === 0) throw new SpiffeError('invalid', 'pem.empty', 'PEM text holds no certificate');
  return certificates;
}

/** One block for each certificate, each line ended. */
export function formatPemCertificates(certificates: Iterable<Uint8Array>): string {
  let text = '';
  for (const certificate of certificates) {
    text += '-----BEGIN CERTIFICATE-----\n';
    const body = encodeBase64(certificate);
    for (let at = 0; at < body.length; at += lineLength) text += `${body.slice(at, at + lineLength)}\n`;
    text += '-----END CERTIFICATE-----\n';
  }
  return text;
}

function readBlock(body: string): Uint8Array {
  const der = body === '' ? undefined : decodeBase64(body);
  if (der === undefined) throw malformed();
  return der;
}

function malformed(): SpiffeError {
  return new SpiffeError('invalid', 'pem.malformed', 'PEM text is malformed');
}
