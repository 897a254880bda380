/**
 * The one form of CMS SignedData that is not DER and still met: written as a stream, its outer wrappers of indefinite
 * length and its content in segments, as Amazon's instance documents are. It becomes DER here, or is refused; what it says
 * is `cms.ts`.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import { contextTag, derTag, openDer, readElement, wholeOf, contentOf, type DerElement } from '../../spiffe/x509/der.ts';
import { encode } from '../../spiffe/x509/der-writer.ts';

const constructedOctetString = derTag.octetString | 0x20;
/** What streams cut their content into [X.690 9.2]. */
const segmentBytes = 1000;
const maxSegments = 32;
const maxCertificates = 8;

export function isStreamed(message: Uint8Array): boolean {
  return message[0] === derTag.sequence && message[1] === 0x80;
}

/**
 * The same message in DER. Exactly the wrappers that a stream cannot know the length of are indefinite: ContentInfo, its
 * content, SignedData, EncapsulatedContentInfo, its content, the octets, and the certificates where there are any.
 * Everything else must be DER, so that a message has one streamed form and no more.
 * @throws invalid `cms.streamed`, `der.*`
 */
export function derOfStreamed(message: Uint8Array): Uint8Array {
  const stream = new Stream(message);
  stream.open(derTag.sequence);
  const type = stream.value(derTag.oid);
  stream.open(contextTag(0, true));
  stream.open(derTag.sequence);
  const version = stream.value(derTag.integer);
  const digests = stream.value(derTag.set);
  const content = readContent(stream);
  const certificates = readCertificates(stream);
  const signers = stream.value(derTag.set);
  stream.close(3);
  stream.finish();
  const signed = encode(derTag.sequence, version, digests, content, ...certificates, signers);
  return encode(derTag.sequence, type, encode(contextTag(0, true), signed));
}

function readContent(stream: Stream): Uint8Array {
  stream.open(derTag.sequence);
  const type = stream.value(derTag.oid);
  stream.open(contextTag(0, true));
  stream.open(constructedOctetString);
  const segments: Uint8Array[] = [];
  while (!stream.isClosing()) {
    if (segments.length === maxSegments) throw wrong('content has too many segments');
    const last = segments.at(-1);
    if (last !== undefined && last.length !== segmentBytes) throw wrong('content is cut where no stream cuts it');
    const segment = contentOf(stream.element(derTag.octetString));
    if (segment.length === 0 || segment.length > segmentBytes) throw wrong('a segment of the content is empty or too long');
    segments.push(segment);
  }
  if (segments.length === 0) throw wrong('there is no content');
  stream.close(3);
  return encode(derTag.sequence, type, encode(contextTag(0, true), encode(derTag.octetString, ...segments)));
}

function readCertificates(stream: Stream): readonly Uint8Array[] {
  const tag = contextTag(0, true);
  if (!stream.isNext(tag)) return [];
  stream.open(tag);
  const certificates: Uint8Array[] = [];
  while (!stream.isClosing()) {
    if (certificates.length === maxCertificates) throw wrong('there are too many certificates');
    certificates.push(stream.value(derTag.sequence));
  }
  stream.close(1);
  return [encode(tag, ...certificates)];
}

/** Where in the message the reader is. */
class Stream {
  readonly #message: Uint8Array;
  #at = 0;

  constructor(message: Uint8Array) {
    this.#message = message;
  }

  isNext(tag: number): boolean {
    return this.#message[this.#at] === tag;
  }

  isClosing(): boolean {
    return this.#message[this.#at] === 0x00 && this.#message[this.#at + 1] === 0x00;
  }

  open(tag: number): void {
    if (!this.isNext(tag) || this.#message[this.#at + 1] !== 0x80) throw wrong('a wrapper is not of indefinite length');
    this.#at += 2;
  }

  close(count: number): void {
    for (let i = 0; i < count; i += 1) {
      if (!this.isClosing()) throw wrong('a wrapper does not end where it should');
      this.#at += 2;
    }
  }

  element(tag: number): DerElement {
    const element = readElement(openDer(this.#message.subarray(this.#at)));
    if (element.tag !== tag) throw wrong('a value is not of the type it should be');
    this.#at += element.end;
    return element;
  }

  value(tag: number): Uint8Array {
    return wholeOf(this.element(tag));
  }

  finish(): void {
    if (this.#at !== this.#message.length) throw wrong('bytes follow the end');
  }
}

function wrong(what: string): SpiffeError {
  return new SpiffeError('invalid', 'cms.streamed', `streamed message cannot be read: ${what}`);
}
