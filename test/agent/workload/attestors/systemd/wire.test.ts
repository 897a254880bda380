import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  decodeBody,
  decodeMessage,
  encodeCall,
  fixedHeaderBytes,
  longestMessage,
  messageLength,
  messageTypes,
  noAutoStart,
} from '../../../../../agent/workload/attestors/systemd/wire.ts';
import type { Message } from '../../../../../agent/workload/attestors/systemd/wire.ts';
import { SpiffeError } from '../../../../../spiffe/errors.ts';
import { wire } from '../../../../help/dbus.ts';
import type { Argument, Wire } from '../../../../help/dbus.ts';

const root = '/org/freedesktop/systemd1';
const unitPath = `${root}/unit/nginx_2eservice`;
const manager = 'org.freedesktop.systemd1.Manager';

type Name =
  | 'hello'
  | 'unit-by-pid'
  | 'property'
  | 'unit'
  | 'text'
  | 'nothing'
  | 'no-unit'
  | 'unit-removed'
  | 'reloading'
  | 'unknown-fields'
  | 'everything';
const vectors = JSON.parse(readFileSync(new URL('../../../../vectors/dbus.json', import.meta.url), 'utf8')) as Readonly<Record<Name, readonly string[]>>;
const orders = ['little', 'big'] as const;
const bytesOf = (name: Name, order: (typeof orders)[number]): Buffer => Buffer.from(vectors[name][orders.indexOf(order)] ?? '', 'hex');

/** As a connection reads: the length first. */
function read(bytes: Buffer): Message {
  expect(messageLength(bytes.subarray(0, fixedHeaderBytes))).toBe(bytes.length);
  return decodeMessage(bytes);
}

const form = expect.objectContaining({ kind: 'invalid', reason: 'dbus.form' }) as Error;
const type = expect.objectContaining({ kind: 'invalid', reason: 'dbus.type' }) as Error;

describe.each(orders)('messages as GLib writes them, %s-endian', (order) => {
  const reply = { type: messageTypes.return, flags: 1, serial: 11, replySerial: 7, sender: ':1.3', destination: ':1.9' };
  const signal = { type: messageTypes.signal, flags: 1, serial: 11, sender: ':1.3', path: root, interface: manager };

  it.each([
    ['unit', { ...reply, signature: 'o' }, [unitPath]],
    ['text', { ...reply, signature: 'v' }, [{ signature: 's', value: 'nginx.service' }]],
    ['nothing', { ...reply, signature: '' }, []],
    ['unit-removed', { ...signal, member: 'UnitRemoved', signature: 'so' }, ['nginx.service', unitPath]],
    ['reloading', { ...signal, member: 'Reloading', signature: 'b' }, [false]],
    ['unknown-fields', { ...reply, signature: 'b' }, [true]],
    [
      'no-unit',
      { type: messageTypes.error, flags: 1, serial: 11, replySerial: 7, sender: ':1.3', errorName: 'org.freedesktop.systemd1.NoUnitForPID', signature: 's' },
      ['PID 4711 does not belong to any loaded unit.'],
    ],
  ] as const)('%s', (name, header, values) => {
    const { body: _, little, ...fields } = read(bytesOf(name, order));
    expect(fields).toEqual(header);
    expect(little).toBe(order === 'little');
    expect(decodeBody(read(bytesOf(name, order)), header.signature, 's')).toEqual(values);
  });

  it('every type there is', () => {
    const message = read(bytesOf('everything', order));
    expect(decodeBody(message, 'ybnqiuxtdsoga{sv}a(yas)ava{t(bd)}', 's')).toEqual([
      250, true, -3, 65_000, -70_000, 4_000_000_000, -(2n ** 60n), 2n ** 63n + 1n, 0.5, 'naïve ✓', '/a/_b', 'a{sv}(ii)',
      [['x', { signature: 's', value: 'y' }]],
      [[1, ['p', '']], [2, []]],
      [{ signature: 's', value: 'z' }],
      [[7n, [false, -1.5]]],
    ]);
  });

  it('T-A15 cut short anywhere, none is taken', () => {
    for (const name of Object.keys(vectors) as Name[]) {
      const whole = bytesOf(name, order);
      for (let length = fixedHeaderBytes; length < whole.length; length += 1) expect(() => decodeMessage(whole.subarray(0, length))).toThrow(form);
    }
  });
});

describe('calls', () => {
  it.each([
    ['hello', { destination: 'org.freedesktop.DBus', path: '/org/freedesktop/DBus', interface: 'org.freedesktop.DBus', member: 'Hello' }, '', []],
    ['unit-by-pid', { destination: ':1.3', path: root, interface: manager, member: 'GetUnitByPID' }, 'u', [4711]],
    ['property', { path: unitPath, interface: 'org.freedesktop.DBus.Properties', member: 'Get' }, 'ss', ['org.freedesktop.systemd1.Unit', 'Id']],
  ] as const)('%s is what GLib writes, but for the order of the header fields', (name, fields, signature, body) => {
    const ours = encodeCall({ flags: noAutoStart, serial: 7, ...fields, signature, body });
    expect(read(ours)).toEqual(read(bytesOf(name, 'little')));
  });

  it('lengths are of bytes, not of characters', () => {
    const call = { flags: 0, serial: 1, path: '/', interface: 'a.b', member: 'c' };
    expect(decodeBody(read(encodeCall({ ...call, signature: 'ss', body: ['✓', 'x'] })), 'ss', '')).toEqual(['✓', 'x']);
  });
});

const reply = [5, 'u', 7] as const;
const patched = (message: Wire, at: number, ...bytes: readonly number[]): Buffer => {
  const whole = wire(message);
  whole.set(bytes, at < 0 ? whole.length + at : at);
  return whole;
};

describe('T-A15 a header is refused', () => {
  it.each<[string, Buffer]>([
    ['in another byte order', patched({}, 0, 0x4c)],
    ['of another version', wire({ version: 2 })],
  ])('%s', (_what, bytes) => {
    expect(() => messageLength(bytes)).toThrow(form);
  });

  it.each<[string, Buffer, number]>([
    ['with a body beyond the bound', patched({}, 4, 0xff, 0xff, 0xff, 0xff), longestMessage],
    ['with fields beyond the bound', patched({}, 12, 0x01, 0x40, 0, 0), 16 * 1024],
  ])('%s', (_what, bytes) => {
    expect(() => messageLength(bytes)).toThrow(expect.objectContaining({ kind: 'limited', reason: 'dbus.too-large' }));
  });

  it.each<[string, Buffer]>([
    ['with serial 0', wire({ serial: 0 })],
    ['with a field of code 0', wire({ fields: [[0, 's', 'x']] })],
    ['with a field of another type', wire({ fields: [[5, 's', '7']] })],
    ['with a field twice', wire({ fields: [reply, reply] })],
    ['that carries descriptors', wire({ fields: [[9, 'u', 1]] })],
    ['with a path that is none', wire({ fields: [[1, 'o', '/a//b']] })],
    ['with a path that ends in a slash', wire({ fields: [[1, 'o', '/a/']] })],
    ['with text that is not UTF-8', wire({ fields: [[3, 's', '\xff\xfe']] })],
    ['with a zero in a text', wire({ fields: [[3, 's', 'a\0b']] })],
    ['with a signature of no type', wire({ fields: [[200, 'h', 'x']] })],
    ['with a signature that is not closed', wire({ fields: [[8, 'g', '(s']] })],
    ['with an empty struct', wire({ fields: [[8, 'g', '()']] })],
    ['with an entry outside of a dictionary', wire({ fields: [[8, 'g', '{sv}']] })],
    ['with a dictionary by variants', wire({ fields: [[8, 'g', 'a{vs}']] })],
    ['with a variant of two values', wire({ fields: [[200, 'ss', 'x']] })],
    ['nested too deep', wire({ fields: [[8, 'g', `${'('.repeat(40)}s${')'.repeat(40)}`]] })],
    ['of variants nested too deep', wire({ fields: [[200, 'v', Array.from({ length: 40 }).reduce<Argument>((inner) => ['v', inner], ['y', 1])]] })],
    ['with a body that no signature tells of', Buffer.concat([patched({}, 4, 4), Buffer.alloc(4)])],
    ['with padding that is not zero', patched({ fields: [[5, 'u', 7]], signature: 'y', body: [1] }, 16 + 8 + 8 - 1, 1)],
    ['with less body than it says', wire({ signature: 's', body: ['x'] }).subarray(0, -1)],
    ['with more body than it says', Buffer.concat([wire({ signature: 's', body: ['x'] }), Buffer.alloc(1)])],
  ])('%s', (_what, bytes) => {
    expect(() => decodeMessage(bytes)).toThrow(form);
  });

  it('unless its fields are merely unknown', () => {
    expect(decodeMessage(wire({ fields: [reply, [200, 's', 'x'], [201, 'v', ['as', ['y']]]] })).replySerial).toBe(7);
  });
});

describe('T-A15 a body is refused', () => {
  const refuses = (bytes: Buffer, signature: string, what: Error, variant = 's'): void => {
    expect(() => decodeBody(decodeMessage(bytes), signature, variant)).toThrow(what);
  };

  it('of another signature', () => {
    refuses(wire({ signature: 's', body: ['x'] }), 'o', type);
    refuses(wire({}), 's', type);
    refuses(wire({ signature: 's', body: ['x'] }), '', type);
  });

  it('whose variant is of another type, before its value is looked at', () => {
    refuses(wire({ signature: 'v', body: [['as', ['x']]] }), 'v', type);
    // Its array would run beyond the end.
    const bytes = wire({ signature: 'v', body: [['au', [1]]] });
    bytes.writeUInt32LE(0xffff, bytes.length - 8);
    refuses(bytes, 'v', type);
    refuses(bytes, 'v', form, 'au');
  });

  it.each<[string, Buffer, string]>([
    ['bytes after it', Buffer.concat([patched({ signature: 's', body: ['x'] }, 4, 7), Buffer.alloc(1)]), 's'],
    ['a boolean that is neither', patched({ signature: 'b', body: [true] }, -4, 2), 'b'],
    ['a text without its zero', patched({ signature: 's', body: ['x'] }, -1, 0x79), 's'],
    ['a text longer than the message', patched({ signature: 's', body: ['x'] }, -6, 0xff, 0xff, 0xff, 0x7f), 's'],
    ['an array longer than the message', patched({ signature: 'au', body: [[1]] }, -8, 8), 'au'],
    ['an array that ends within an element', patched({ signature: 'au', body: [[1]] }, -8, 3), 'au'],
  ])('%s', (_what, bytes, signature) => {
    refuses(bytes, signature, form);
  });
});

it('T-A15 whatever bytes come, they are read or refused', () => {
  const names = Object.keys(vectors) as Name[];
  const mutation = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 6 });
  fc.assert(
    fc.property(fc.constantFrom(...names), fc.constantFrom(...orders), mutation, (name, order, changes) => {
      const bytes = bytesOf(name, order);
      for (const [at, value] of changes) bytes[at % bytes.length] = value;
      try {
        messageLength(bytes);
        const message = decodeMessage(bytes);
        decodeBody(message, message.signature, 's');
      } catch (error) {
        if (!(error instanceof SpiffeError)) throw error;
      }
    }),
    { numRuns: 3_000 },
  );
});
