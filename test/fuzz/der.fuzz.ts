/**
 * Fuzzes the DER reader with every kind of value it knows; certificates and requests have targets of their own.
 */
import {
  asciiOf,
  bitStringOf,
  booleanOf,
  checkTree,
  enter,
  integerOf,
  namedBitsOf,
  oidOf,
  openDer,
  readElement,
  smallIntegerOf,
  timeOf,
  type DerElement,
} from '../../spiffe/x509/der.ts';
import { encode, encodeOid, encodeTime, encodeUnsigned } from '../../spiffe/x509/der-writer.ts';
import { checkPublicKey } from '../../spiffe/x509/public-key.ts';
import type { RequestCase } from '../vectors/generate-requests.ts';
import { refusing, vectors } from './target.ts';

export const name = 'der';

const readers: readonly ((element: DerElement) => unknown)[] = [
  asciiOf,
  bitStringOf,
  booleanOf,
  checkTree,
  integerOf,
  namedBitsOf,
  smallIntegerOf,
  timeOf,
];

export function corpus(): readonly Uint8Array[] {
  const cases = vectors('requests.json') as readonly RequestCase[];
  return [
    ...cases.map(({ der }) => Buffer.from(der, 'base64')).filter(({ length }) => length < 4096),
    encodeOid('1.2.840.113549.1.9.14'),
    encodeTime(Date.UTC(2049, 11, 31)),
    encodeTime(Date.UTC(2050, 0, 1)),
    encode(3, Uint8Array.of(7, 0x80)),
    encodeUnsigned(Uint8Array.of(0x80, 0, 0)),
  ];
}

export function run(input: Uint8Array): void {
  refusing(() => walk(readElement(openDer(input)), 0));
  refusing(() => {
    checkPublicKey(input);
  });
}

function walk(element: DerElement, depth: number): void {
  for (const reader of readers) refusing(() => void reader(element));
  refusing(() => checkOid(element));
  if ((element.tag & 0x20) === 0 || depth > 20) return;
  refusing(() => {
    const cursor = enter(element);
    while (cursor.at < cursor.end) walk(readElement(cursor), depth + 1);
  });
}

/** What is read must be the only way to write it. */
function checkOid(element: DerElement): void {
  const dotted = oidOf(element);
  const { source, contentStart, end } = element;
  const [, , ...content] = encodeOid(dotted);
  if (Buffer.compare(source.subarray(contentStart, end), Uint8Array.from(content)) !== 0) {
    throw new Error(`object identifier ${dotted} has two encodings`);
  }
}
