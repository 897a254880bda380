import { readFileSync } from 'node:fs';
import type { ServiceDefinition } from '@grpc/proto-loader';
import { describe, expect, it } from 'vitest';
import { loadPackage } from '../../proto/load.ts';
import { runProgram, withoutGo } from './program.ts';

interface Contract {
  readonly messages: Readonly<Record<string, Readonly<Record<string, string>>>>;
  readonly methods: Readonly<Record<string, { readonly request: string; readonly response: string; readonly responseStream: boolean }>>;
}

type Table = Readonly<Record<string, Readonly<Record<string, string>>>>;

const vectors = new URL('../vectors/wire-contract.json', import.meta.url);
const table = JSON.parse(readFileSync(vectors, 'utf8')) as Table;

/** Map fields and messages as the table names them, which is short for the entry message of a map. */
function comparable(shape: string): string {
  const [number, type = ''] = shape.split(' ');
  const isMap = type.startsWith('map<') || /^\[\](Federated_bundles|Bundles)$/.test(type);
  return `${number} ${isMap ? 'map' : type.replace('google.protobuf.', '')}`;
}

describe('the Workload API as go-spiffe has it', () => {
  it.skipIf(withoutGo !== undefined)(`has our messages and methods ${withoutGo ?? ''}`, async () => {
    const { code, lines } = await runProgram('contract');
    expect(code).toBe(0);
    const theirs = lines[0] as unknown as Contract;
    for (const [name, fields] of Object.entries(theirs.messages)) {
      const ours = table[name] ?? {};
      expect(Object.fromEntries(Object.entries(ours).map(([field, shape]) => [field, comparable(shape)])), name).toEqual(
        Object.fromEntries(Object.entries(fields).map(([field, shape]) => [field, comparable(shape)])),
      );
    }
    const definition = loadPackage(['SpiffeWorkloadAPI'])['SpiffeWorkloadAPI'] as ServiceDefinition;
    const methods = Object.entries(definition).map(([name, method]) => [
      name,
      {
        request: (method.requestType.type as { name: string }).name,
        response: (method.responseType.type as { name: string }).name,
        responseStream: method.responseStream,
      },
    ]);
    expect(Object.fromEntries(methods)).toEqual(theirs.methods);
  });
});
