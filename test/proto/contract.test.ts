/**
 * Names, numbers and types of the contracts that are not ours, against a table; a renumbered field would still round-trip
 * with ourselves, and with nobody else.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { loadPackage } from '../../proto/load.ts';

interface FieldShape {
  readonly name: string;
  readonly number: number;
  readonly type: string;
  readonly label: string;
  readonly typeName: string;
}

type Table = Readonly<Record<string, Readonly<Record<string, string>>>>;

const table = JSON.parse(readFileSync(new URL('../vectors/wire-contract.json', import.meta.url), 'utf8')) as Table;

function shapes(): Table {
  const found: Record<string, Record<string, string>> = {};
  const definitions = loadPackage([
    'SpiffeWorkloadAPI',
    'envoy.extensions.transport_sockets.tls.v3.Secret',
    'envoy.service.secret.v3.SecretDiscoveryService',
    'google.rpc.ErrorInfo',
    'google.rpc.Status',
    'grpc.health.v1.Health',
    'runtime.v1.RuntimeService',
    'spiffe.broker.API',
    'spire.agent.debug.v1.Debug',
    'spire.api.agent.delegatedidentity.v1.DelegatedIdentity',
    'spire.api.agent.logger.v1.Logger',
    'spire.api.server.agent.v1.Agent',
    'spire.api.server.bundle.v1.Bundle',
    'spire.api.server.debug.v1.Debug',
    'spire.api.server.entry.v1.Entry',
    'spire.api.server.localauthority.v1.LocalAuthority',
    'spire.api.server.logger.v1.Logger',
    'spire.api.server.svid.v1.SVID',
    'spire.api.server.trustdomain.v1.TrustDomain',
  ]);
  for (const [name, definition] of Object.entries(definitions)) {
    if (name.startsWith('google.protobuf.')) continue;
    if ('type' in definition) addType(found, name, definition.type as Descriptor);
  }
  return found;
}

interface Descriptor {
  readonly field?: readonly FieldShape[];
  readonly value?: readonly { readonly name: string; readonly number: number }[];
  readonly nestedType?: readonly (Descriptor & { readonly name: string })[];
  readonly enumType?: readonly (Descriptor & { readonly name: string })[];
}

function addType(found: Record<string, Record<string, string>>, name: string, type: Descriptor): void {
  found[name] = Object.fromEntries([
    ...(type.field ?? []).map((field) => [field.name, describeField(field)]),
    ...(type.value ?? []).map((value) => [value.name, String(value.number)]),
  ]) as Record<string, string>;
  for (const nested of [...(type.nestedType ?? []), ...(type.enumType ?? [])]) addType(found, `${name}.${nested.name}`, nested);
}

function describeField(field: FieldShape): string {
  const list = field.label === 'LABEL_REPEATED' ? '[]' : '';
  const scalar = field.type.replace('TYPE_', '').toLowerCase();
  return `${field.number} ${list}${field.typeName === '' ? scalar : field.typeName.replace(/^\./, '')}`;
}

describe('wire contract', () => {
  const found = shapes();

  it('has the messages and enums of the table and no others', () => {
    expect(Object.keys(found).toSorted()).toEqual(Object.keys(table).toSorted());
  });

  it.each(Object.keys(table))('%s', (name) => {
    expect(found[name]).toEqual(table[name]);
  });
});
