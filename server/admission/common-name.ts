/**
 * The common name in a Name. Only evidence looks at it, and only as one more fact about a node; SVIDs are never judged by
 * their subject.
 */
import {
  atEnd,
  contentOf,
  derTag,
  enter,
  oidOf,
  readElement,
  readTagged,
  readWhole,
  type DerElement,
} from '../../spiffe/x509/der.ts';
import { oid } from '../../spiffe/x509/names.ts';

/**
 * The last one where there are several, as Go has it; `''` when there is none, or one in an encoding nobody uses today.
 * @throws invalid `der.*`
 */
export function commonNameOf(name: Uint8Array): string {
  let found = '';
  const sets = enter(readWhole(name, derTag.sequence));
  while (!atEnd(sets)) {
    const set = enter(readTagged(sets, derTag.set));
    while (!atEnd(set)) {
      const attribute = enter(readTagged(set, derTag.sequence));
      const isCommonName = oidOf(readTagged(attribute, derTag.oid)) === oid.commonName;
      const value = readElement(attribute);
      if (isCommonName) found = textOf(value);
    }
  }
  return found;
}

function textOf(value: DerElement): string {
  const content = Buffer.from(contentOf(value));
  switch (value.tag) {
    case derTag.utf8String:
      return content.toString('utf8');
    case derTag.printableString:
    case derTag.ia5String:
    case derTag.teletexString:
      return content.toString('latin1');
    default:
      return '';
  }
}
