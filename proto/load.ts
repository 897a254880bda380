/**
 * Turns the .proto files into service and message definitions at start, typed by `proto/gen/`, with one set of options for
 * every program. What the messages mean is left to `proto/convert/` and to the files that answer or make the calls.
 */
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadSync, type MessageTypeDefinition, type Options, type PackageDefinition } from '@grpc/proto-loader';

import type { Secret, Secret__Output } from './gen/envoy/extensions/transport_sockets/tls/v3/Secret.ts';
import type {
  SPIFFECertValidatorConfig,
  SPIFFECertValidatorConfig__Output,
} from './gen/envoy/extensions/transport_sockets/tls/v3/SPIFFECertValidatorConfig.ts';
import type { SecretDiscoveryServiceDefinition } from './gen/envoy/service/secret/v3/SecretDiscoveryService.ts';
import type { ErrorInfo, ErrorInfo__Output } from './gen/google/rpc/ErrorInfo.ts';
import type { Status, Status__Output } from './gen/google/rpc/Status.ts';
import type { FileDescriptorProto } from './gen/google/protobuf/FileDescriptorProto.ts';
import type { HealthDefinition } from './gen/grpc/health/v1/Health.ts';
import type { ServerReflectionDefinition } from './gen/grpc/reflection/v1/ServerReflection.ts';
import type { ServerReflectionDefinition as AlphaReflectionDefinition } from './gen/grpc/reflection/v1alpha/ServerReflection.ts';
import type { ImageServiceDefinition } from './gen/runtime/v1/ImageService.ts';
import type { RuntimeServiceDefinition } from './gen/runtime/v1/RuntimeService.ts';
import type { APIDefinition } from './gen/spiffe/broker/API.ts';
import type { KubernetesObjectReference, KubernetesObjectReference__Output } from './gen/spiffe/broker/KubernetesObjectReference.ts';
import type { WorkloadPIDReference, WorkloadPIDReference__Output } from './gen/spiffe/broker/WorkloadPIDReference.ts';
import type { DebugDefinition as AgentDebugDefinition } from './gen/spire/agent/debug/v1/Debug.ts';
import type { DelegatedIdentityDefinition } from './gen/spire/api/agent/delegatedidentity/v1/DelegatedIdentity.ts';
import type { LoggerDefinition as AgentLoggerDefinition } from './gen/spire/api/agent/logger/v1/Logger.ts';
import type { AgentDefinition } from './gen/spire/api/server/agent/v1/Agent.ts';
import type { BundleDefinition } from './gen/spire/api/server/bundle/v1/Bundle.ts';
import type { DebugDefinition } from './gen/spire/api/server/debug/v1/Debug.ts';
import type { EntryDefinition } from './gen/spire/api/server/entry/v1/Entry.ts';
import type { LocalAuthorityDefinition } from './gen/spire/api/server/localauthority/v1/LocalAuthority.ts';
import type { LoggerDefinition } from './gen/spire/api/server/logger/v1/Logger.ts';
import type { SVIDDefinition } from './gen/spire/api/server/svid/v1/SVID.ts';
import type { TrustDomainDefinition } from './gen/spire/api/server/trustdomain/v1/TrustDomain.ts';
import type {
  PermissionDeniedDetails,
  PermissionDeniedDetails__Output,
} from './gen/spire/api/types/PermissionDeniedDetails.ts';
import type { SpiffeWorkloadAPIDefinition } from './gen/SpiffeWorkloadAPI.ts';
import type { AdminDefinition } from './gen/steeple/agent/v1/Admin.ts';
import type { NodeDefinition } from './gen/steeple/node/v1/Node.ts';
import type { OperatorDefinition } from './gen/steeple/operator/v1/Operator.ts';
import { messageShape } from './workload.ts';

/** Every service by its full name on the wire. */
export interface ServiceDefinitions {
  readonly SpiffeWorkloadAPI: SpiffeWorkloadAPIDefinition;
  readonly 'envoy.service.secret.v3.SecretDiscoveryService': SecretDiscoveryServiceDefinition;
  readonly 'grpc.health.v1.Health': HealthDefinition;
  readonly 'grpc.reflection.v1.ServerReflection': ServerReflectionDefinition;
  readonly 'grpc.reflection.v1alpha.ServerReflection': AlphaReflectionDefinition;
  readonly 'runtime.v1.ImageService': ImageServiceDefinition;
  readonly 'runtime.v1.RuntimeService': RuntimeServiceDefinition;
  readonly 'spiffe.broker.API': APIDefinition;
  readonly 'spire.agent.debug.v1.Debug': AgentDebugDefinition;
  readonly 'spire.api.agent.delegatedidentity.v1.DelegatedIdentity': DelegatedIdentityDefinition;
  readonly 'spire.api.agent.logger.v1.Logger': AgentLoggerDefinition;
  readonly 'spire.api.server.agent.v1.Agent': AgentDefinition;
  readonly 'spire.api.server.bundle.v1.Bundle': BundleDefinition;
  readonly 'spire.api.server.debug.v1.Debug': DebugDefinition;
  readonly 'spire.api.server.entry.v1.Entry': EntryDefinition;
  readonly 'spire.api.server.localauthority.v1.LocalAuthority': LocalAuthorityDefinition;
  readonly 'spire.api.server.logger.v1.Logger': LoggerDefinition;
  readonly 'spire.api.server.svid.v1.SVID': SVIDDefinition;
  readonly 'spire.api.server.trustdomain.v1.TrustDomain': TrustDomainDefinition;
  readonly 'steeple.agent.v1.Admin': AdminDefinition;
  readonly 'steeple.node.v1.Node': NodeDefinition;
  readonly 'steeple.operator.v1.Operator': OperatorDefinition;
}

/** Messages that travel outside of a call's own request and response. */
export interface MessageDefinitions {
  readonly 'envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig': MessageTypeDefinition<
    SPIFFECertValidatorConfig,
    SPIFFECertValidatorConfig__Output
  >;
  readonly 'envoy.extensions.transport_sockets.tls.v3.Secret': MessageTypeDefinition<Secret, Secret__Output>;
  readonly 'google.rpc.ErrorInfo': MessageTypeDefinition<ErrorInfo, ErrorInfo__Output>;
  readonly 'google.rpc.Status': MessageTypeDefinition<Status, Status__Output>;
  readonly 'spiffe.broker.KubernetesObjectReference': MessageTypeDefinition<
    KubernetesObjectReference,
    KubernetesObjectReference__Output
  >;
  readonly 'spiffe.broker.WorkloadPIDReference': MessageTypeDefinition<WorkloadPIDReference, WorkloadPIDReference__Output>;
  readonly 'spire.api.types.PermissionDeniedDetails': MessageTypeDefinition<
    PermissionDeniedDetails,
    PermissionDeniedDetails__Output
  >;
}

export type ServiceName = keyof ServiceDefinitions;
export type MessageName = keyof MessageDefinitions;

const files: Record<ServiceName | MessageName, string> = {
  SpiffeWorkloadAPI: 'workload.proto',
  'envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig': 'envoy/extensions/transport_sockets/tls/v3/secret.proto',
  'envoy.extensions.transport_sockets.tls.v3.Secret': 'envoy/extensions/transport_sockets/tls/v3/secret.proto',
  'envoy.service.secret.v3.SecretDiscoveryService': 'envoy/service/secret/v3/sds.proto',
  'grpc.health.v1.Health': 'grpc/health/v1/health.proto',
  'grpc.reflection.v1.ServerReflection': 'grpc/reflection/v1/reflection.proto',
  'grpc.reflection.v1alpha.ServerReflection': 'grpc/reflection/v1alpha/reflection.proto',
  'google.rpc.ErrorInfo': 'google/rpc/error_details.proto',
  'google.rpc.Status': 'google/rpc/status.proto',
  'runtime.v1.ImageService': 'runtime/v1/api.proto',
  'runtime.v1.RuntimeService': 'runtime/v1/api.proto',
  'spiffe.broker.API': 'spiffe/broker/api.proto',
  'spiffe.broker.KubernetesObjectReference': 'spiffe/broker/api.proto',
  'spiffe.broker.WorkloadPIDReference': 'spiffe/broker/api.proto',
  'spire.agent.debug.v1.Debug': 'spire/api/agent/debug/v1/debug.proto',
  'spire.api.agent.delegatedidentity.v1.DelegatedIdentity': 'spire/api/agent/delegatedidentity/v1/delegatedidentity.proto',
  'spire.api.agent.logger.v1.Logger': 'spire/api/agent/logger/v1/logger.proto',
  'spire.api.server.agent.v1.Agent': 'spire/api/server/agent/v1/agent.proto',
  'spire.api.server.bundle.v1.Bundle': 'spire/api/server/bundle/v1/bundle.proto',
  'spire.api.server.debug.v1.Debug': 'spire/api/server/debug/v1/debug.proto',
  'spire.api.server.entry.v1.Entry': 'spire/api/server/entry/v1/entry.proto',
  'spire.api.server.localauthority.v1.LocalAuthority': 'spire/api/server/localauthority/v1/localauthority.proto',
  'spire.api.server.logger.v1.Logger': 'spire/api/server/logger/v1/logger.proto',
  'spire.api.server.svid.v1.SVID': 'spire/api/server/svid/v1/svid.proto',
  'spire.api.server.trustdomain.v1.TrustDomain': 'spire/api/server/trustdomain/v1/trustdomain.proto',
  'spire.api.types.PermissionDeniedDetails': 'spire/api/types/status.proto',
  'steeple.agent.v1.Admin': 'steeple/agent/v1/agent.proto',
  'steeple.node.v1.Node': 'steeple/node/v1/node.proto',
  'steeple.operator.v1.Operator': 'steeple/operator/v1/operator.proto',
};

/** The folder of this file holds the .proto files, in a checkout and, because the build copies them, in a package. */
const protoRoot = path.dirname(fileURLToPath(import.meta.url));

const options: Options = { ...messageShape, includeDirs: [protoRoot] };

const loaded = new Map<string, PackageDefinition>();

/**
 * All definitions of the files that hold the named services and messages, parsed together and kept. Each distinct set of
 * names is parsed once, so a program asks for all it needs in one call.
 */
export function loadPackage(names: readonly (ServiceName | MessageName)[]): PackageDefinition {
  const sources = [...new Set(names.map((name) => files[name]))].toSorted();
  const key = sources.join('\n');
  let definitions = loaded.get(key);
  if (definitions === undefined) {
    definitions = loadSync(sources, options);
    loaded.set(key, definitions);
  }
  return definitions;
}

/** The named services, ready to be served or called. */
export function loadServices<Name extends ServiceName>(...names: readonly Name[]): Pick<ServiceDefinitions, Name> {
  return pick(loadPackage(names), names) as Pick<ServiceDefinitions, Name>;
}

/** The named messages, each with `serialize` and `deserialize`; the latter throws what protobufjs throws. */
export function loadMessages<Name extends MessageName>(...names: readonly Name[]): Pick<MessageDefinitions, Name> {
  return pick(loadPackage(names), names) as Pick<MessageDefinitions, Name>;
}

/**
 * The message that describes a .proto file, on its own terms: absent fields stay absent, because one that is written back with
 * its default means something else there.
 */
export function loadFileDescriptor(): MessageTypeDefinition<FileDescriptorProto, FileDescriptorProto> {
  const sparse: Options = { keepCase: true, longs: String, enums: String, includeDirs: [protoRoot] };
  const definitions = loadSync('grpc/reflection/descriptors.proto', sparse);
  return definitions['google.protobuf.FileDescriptorProto'] as MessageTypeDefinition<FileDescriptorProto, FileDescriptorProto>;
}

function pick(definitions: PackageDefinition, names: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(names.map((name) => [name, definitions[name]]));
}
