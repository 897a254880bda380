import { describe, expect, it } from 'vitest';
import type { ServerReflectionRequest } from '../../proto/gen/grpc/reflection/v1/ServerReflectionRequest.ts';
import type { ServerReflectionResponse__Output } from '../../proto/gen/grpc/reflection/v1/ServerReflectionResponse.ts';
import { loadFileDescriptor } from '../../proto/load.ts';
import { reflectionServices } from '../../proto/reflection.ts';
import { overTheWire } from './convert/arbitrary.ts';

const [v1, v1alpha] = reflectionServices(['SpiffeWorkloadAPI', 'grpc.health.v1.Health']);
const type = loadFileDescriptor();

/** What a tool gets for its requests on one stream. */
async function ask(...requests: readonly ServerReflectionRequest[]): Promise<ServerReflectionResponse__Output[]> {
  const method = v1.definition.ServerReflectionInfo;
  const received = requests.map((request) => method.requestDeserialize(method.requestSerialize(request)));
  const responses: ServerReflectionResponse__Output[] = [];
  for await (const response of v1.handlers.ServerReflectionInfo(streamOf(received))) {
    responses.push(method.responseDeserialize(method.responseSerialize(response)));
  }
  return responses;
}

async function* streamOf<T>(items: readonly T[]): AsyncGenerator<T> {
  yield* items;
}

async function filesFor(symbol: string): Promise<ReturnType<typeof type.deserialize>[]> {
  const [response] = await ask({ file_containing_symbol: symbol });
  return (response?.file_descriptor_response?.file_descriptor_proto ?? []).map((bytes) => type.deserialize(bytes));
}

describe('reflection', () => {
  it('lists what is served and itself, in both versions', async () => {
    const [response] = await ask({ list_services: '*' });
    expect(response?.list_services_response?.service.map(({ name }) => name)).toEqual([
      'SpiffeWorkloadAPI',
      'grpc.health.v1.Health',
      'grpc.reflection.v1.ServerReflection',
      'grpc.reflection.v1alpha.ServerReflection',
    ]);
    expect(v1.definition.ServerReflectionInfo.path).toBe('/grpc.reflection.v1.ServerReflection/ServerReflectionInfo');
    expect(v1alpha.definition.ServerReflectionInfo.path).toBe(
      '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo',
    );
  });

  it('answers each request in order and repeats it', async () => {
    const responses = await ask({ host: 'h', list_services: '' }, { file_by_filename: 'none' });
    expect(responses.map(({ message_response }) => message_response)).toEqual(['list_services_response', 'error_response']);
    expect(responses[0]).toMatchObject({ valid_host: 'h', original_request: { host: 'h', list_services: '' } });
  });

  it('gives the file with the symbol first, and everything it imports', async () => {
    const files = await filesFor('SpiffeWorkloadAPI.ValidateJWTSVID');
    const names = files.map(({ name }) => name);
    expect(files[0]?.service?.[0]?.name).toBe('SpiffeWorkloadAPI');
    for (const file of files) for (const needed of file.dependency ?? []) expect(names).toContain(needed);
    expect(files.flatMap(({ messageType = [] }) => messageType.map(({ name }) => name))).toContain('Struct');
  });

  it('names entries of maps as tools demand', async () => {
    const [file] = await filesFor('X509SVIDResponse');
    const message = file?.messageType?.find(({ name }) => name === 'X509SVIDResponse');
    expect(message?.field?.find(({ name }) => name === 'federated_bundles')).toMatchObject({
      number: 3,
      label: 'LABEL_REPEATED',
      typeName: '.X509SVIDResponse.FederatedBundlesEntry',
    });
    expect(message?.nestedType?.[0]).toMatchObject({ name: 'FederatedBundlesEntry', options: { mapEntry: true } });
  });

  it('names every type from the top', async () => {
    const files = [...(await filesFor('grpc.health.v1.Health')), ...(await filesFor('SpiffeWorkloadAPI'))];
    const typeNames = files.flatMap(({ messageType = [] }) =>
      messageType.flatMap(({ field = [] }) => field.flatMap(({ typeName }) => typeName ?? [])),
    );
    expect(typeNames.length).toBeGreaterThan(5);
    for (const name of typeNames) expect(name).toMatch(/^\./);
    expect(typeNames).toContain('.grpc.health.v1.HealthCheckResponse.ServingStatus');
  });

  it('leaves fields that are in no oneof outside of all', async () => {
    const [file] = await filesFor('JWTSVIDRequest');
    const fields = file?.messageType?.find(({ name }) => name === 'JWTSVIDRequest')?.field ?? [];
    for (const field of fields) expect(Object.hasOwn(field, 'oneofIndex')).toBe(false);
  });

  it('spells the well-known types as they are on paper', async () => {
    const [file] = await filesFor('google.protobuf.Value');
    const fields = file?.messageType?.find(({ name }) => name === 'Value')?.field?.map(({ name }) => name);
    expect(fields).toContain('null_value');
  });

  it.each<[string, ServerReflectionRequest, number]>([
    ['an unknown symbol', { file_containing_symbol: 'no.Such' }, 5],
    ['an unknown file', { file_by_filename: '../workload.proto' }, 5],
    ['a name every object has', { file_containing_symbol: 'constructor' }, 5],
    ['a service that is not served', { file_containing_symbol: 'spire.api.server.agent.v1.Agent' }, 5],
    ['an extension', { file_containing_extension: { containing_type: 'X509SVID', extension_number: 1 } }, 5],
    ['extensions of an unknown type', { all_extension_numbers_of_type: 'no.Such' }, 5],
    ['nothing', {}, 3],
  ])('refuses %s', async (_, request, code) => {
    const [response] = await ask(request);
    expect(response?.error_response?.error_code).toBe(code);
  });

  it('knows no extensions of a known type', async () => {
    const [response] = await ask({ all_extension_numbers_of_type: 'X509SVID' });
    expect(response?.all_extension_numbers_response).toEqual({ base_type_name: 'X509SVID', extension_number: [] });
  });

  it('says the same in both versions', () => {
    const message = { original_request: { list_services: 'x' }, list_services_response: { service: [{ name: 's' }] } };
    const older = v1alpha.definition.ServerReflectionInfo;
    const newer = v1.definition.ServerReflectionInfo;
    const bytes = newer.responseSerialize(message);
    expect(overTheWire({ serialize: () => bytes, deserialize: older.responseDeserialize }, message)).toEqual(
      newer.responseDeserialize(bytes),
    );
  });
});
