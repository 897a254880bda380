/**
 * Answers gRPC reflection, both versions of it, about a fixed list of services. It looks at nothing else than their
 * definitions; on which socket that may be asked is left to whoever serves it.
 */
import { describeServices, type Description } from './describe.ts';
import type { ServerReflectionDefinition } from './gen/grpc/reflection/v1/ServerReflection.ts';
import type { ServerReflectionRequest__Output } from './gen/grpc/reflection/v1/ServerReflectionRequest.ts';
import type { ServerReflectionResponse } from './gen/grpc/reflection/v1/ServerReflectionResponse.ts';
import type { ServerReflectionDefinition as AlphaDefinition } from './gen/grpc/reflection/v1alpha/ServerReflection.ts';
import { loadServices, type ServiceName } from './load.ts';

/** One version: its definition, and its only method as a function over the requests of a stream. */
export interface ReflectionService<Definition> {
  readonly definition: Definition;
  readonly handlers: {
    readonly ServerReflectionInfo: (
      requests: AsyncIterable<ServerReflectionRequest__Output>,
    ) => AsyncIterable<ServerReflectionResponse>;
  };
}

const v1 = 'grpc.reflection.v1.ServerReflection';
const v1alpha = 'grpc.reflection.v1alpha.ServerReflection';
const invalidArgument = 3;
const notFound = 5;

/** Reflection about the named services and itself. Descriptors are made when they are first asked for. */
export function reflectionServices(
  names: readonly ServiceName[],
): readonly [ReflectionService<ServerReflectionDefinition>, ReflectionService<AlphaDefinition>] {
  const served = [...new Set<ServiceName>([...names, v1, v1alpha])].toSorted();
  let description: Description | undefined;
  const handlers = {
    async *ServerReflectionInfo(requests: AsyncIterable<ServerReflectionRequest__Output>) {
      for await (const request of requests) {
        description ??= describeServices(served);
        yield { valid_host: request.host, original_request: request, ...answer(request, served, description) };
      }
    },
  };
  // The versions have the same messages under different names.
  const definitions = loadServices(v1, v1alpha);
  return [
    { definition: definitions[v1], handlers },
    { definition: definitions[v1alpha], handlers },
  ];
}

function answer(
  request: ServerReflectionRequest__Output,
  served: readonly string[],
  description: Description,
): ServerReflectionResponse {
  switch (request.message_request) {
    case 'list_services':
      return { list_services_response: { service: served.map((name) => ({ name })) } };
    case 'file_by_filename':
      return fileAnswer(request.file_by_filename ?? '', description);
    case 'file_containing_symbol':
      return fileAnswer(description.fileOfSymbol.get(request.file_containing_symbol ?? ''), description);
    case 'all_extension_numbers_of_type': {
      const type = request.all_extension_numbers_of_type ?? '';
      if (!description.fileOfSymbol.has(type)) return refusal(notFound, 'no such type');
      return { all_extension_numbers_response: { base_type_name: type } };
    }
    case 'file_containing_extension':
      // Extensions do not exist in the language version these files are written in.
      return refusal(notFound, 'no such extension');
    default:
      return refusal(invalidArgument, 'request asks for nothing');
  }
}

/** The file and everything it needs, each once, the file itself first. */
function fileAnswer(name: string | undefined, description: Description): ServerReflectionResponse {
  if (name === undefined || !description.files.has(name)) return refusal(notFound, 'no such symbol or file');
  const needed = new Set([name]);
  // Grows while it is walked.
  for (const file of needed) for (const imported of description.imports.get(file) ?? []) needed.add(imported);
  const files = [...needed].map((file) => description.files.get(file)).filter((bytes) => bytes !== undefined);
  return { file_descriptor_response: { file_descriptor_proto: files } };
}

function refusal(error_code: number, error_message: string): ServerReflectionResponse {
  return { error_response: { error_code, error_message } };
}
