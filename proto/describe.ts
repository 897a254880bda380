/**
 * Descriptors of loaded .proto files as protoc would write them, so that strict tools accept them. The loader leaves names
 * relative, entries of maps misnamed and imports out; what is done with the descriptors is left to `reflection.ts`.
 */
import type { MessageTypeDefinition } from '@grpc/proto-loader';
import type { DescriptorProto } from './gen/google/protobuf/DescriptorProto.ts';
import type { FileDescriptorProto } from './gen/google/protobuf/FileDescriptorProto.ts';
import { loadFileDescriptor, loadPackage, type ServiceName } from './load.ts';

/** One file for each package that the services reach; frozen once built. */
export interface Description {
  /** A serialized google.protobuf.FileDescriptorProto by file name. */
  readonly files: ReadonlyMap<string, Buffer>;
  /** File name by the full name of everything declared: messages, fields, enums and their values, services, methods. */
  readonly fileOfSymbol: ReadonlyMap<string, string>;
  /** Names of the files a file imports, directly. */
  readonly imports: ReadonlyMap<string, readonly string[]>;
}

interface Scope {
  readonly file: FileDescriptorProto;
  /** Full name of the package or message, without a leading dot. */
  readonly name: string;
}

/** Describes the files that hold the services, and everything those files import. */
export function describeServices(services: readonly ServiceName[]): Description {
  const type = loadFileDescriptor();
  const files = new Map<string, FileDescriptorProto>();
  for (const definition of Object.values(loadPackage(services))) {
    // A service says nothing of its file, but its messages do.
    const { fileDescriptorProtos = [] } = definition as Partial<MessageTypeDefinition<object, object>>;
    for (const bytes of fileDescriptorProtos) {
      const file = type.deserialize(bytes);
      if (!files.has(nameOf(file))) files.set(nameOf(file), file);
    }
  }
  for (const file of files.values()) {
    for (const { message } of messagesOf(file)) {
      renameMapEntries(message);
      if (file.package === 'google.protobuf') renameFields(message);
    }
  }
  const fileOfSymbol = new Map<string, string>();
  for (const file of files.values()) for (const symbol of symbolsOf(file)) fileOfSymbol.set(symbol, nameOf(file));
  const imports = new Map<string, readonly string[]>();
  for (const file of files.values()) imports.set(nameOf(file), resolveNames(file, fileOfSymbol));
  return Object.freeze({
    files: new Map([...files].map(([name, file]) => [name, type.serialize(file)])),
    fileOfSymbol,
    imports,
  });
}

function nameOf(file: FileDescriptorProto): string {
  return file.name ?? '';
}

/** Each message of the file with its full name, outer ones first. */
function* messagesOf(file: FileDescriptorProto): Generator<Scope & { readonly message: DescriptorProto }> {
  yield* nested(file.messageType ?? [], { file, name: file.package ?? '' });
}

function* nested(
  messages: readonly DescriptorProto[],
  scope: Scope,
): Generator<Scope & { readonly message: DescriptorProto }> {
  for (const message of messages) {
    const inner = { file: scope.file, name: join(scope.name, message.name) };
    yield { ...inner, message };
    yield* nested(message.nestedType ?? [], inner);
  }
}

function join(scope: string, name = ''): string {
  return scope === '' ? name : `${scope}.${name}`;
}

/** `federated_bundles` has entries `FederatedBundlesEntry`; tools refuse a map whose entry has another name. */
function renameMapEntries(message: DescriptorProto): void {
  for (const entry of message.nestedType ?? []) {
    if (entry.options?.mapEntry !== true) continue;
    const field = message.field?.find(({ typeName }) => typeName === entry.name);
    if (field?.name === undefined) continue;
    entry.name = `${field.name.replaceAll(/(?:^|_)([a-z])/g, (_, letter: string) => letter.toUpperCase())}Entry`;
    field.typeName = entry.name;
  }
}

/** The loader's own copies of the well-known types have camel-case names. */
function renameFields(message: DescriptorProto): void {
  for (const field of message.field ?? []) {
    field.name = (field.name ?? '').replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  }
}

function* symbolsOf(file: FileDescriptorProto): Generator<string> {
  const scope = file.package ?? '';
  for (const { name, message } of messagesOf(file)) {
    yield name;
    for (const field of message.field ?? []) yield join(name, field.name);
    for (const choice of message.oneofDecl ?? []) yield join(name, choice.name);
    yield* enumSymbols(message.enumType ?? [], name);
  }
  yield* enumSymbols(file.enumType ?? [], scope);
  for (const service of file.service ?? []) {
    yield join(scope, service.name);
    for (const method of service.method ?? []) yield join(join(scope, service.name), method.name);
  }
}

/** Values are named beside their enum, not in it. */
function* enumSymbols(enums: NonNullable<FileDescriptorProto['enumType']>, scope: string): Generator<string> {
  for (const { name, value } of enums) {
    yield join(scope, name);
    for (const one of value ?? []) yield join(scope, one.name);
  }
}

/** Makes every name of a type absolute and lists the files the types are in. */
function resolveNames(file: FileDescriptorProto, fileOfSymbol: ReadonlyMap<string, string>): readonly string[] {
  const used = new Set<string>();
  const resolve = (name: string, scope: string): string => {
    const found = absolute(name, scope, fileOfSymbol);
    used.add(fileOfSymbol.get(found) ?? '');
    return `.${found}`;
  };
  for (const { name, message } of messagesOf(file)) {
    for (const field of message.field ?? []) {
      if (field.typeName) field.typeName = resolve(field.typeName, name);
    }
  }
  for (const method of (file.service ?? []).flatMap((service) => service.method ?? [])) {
    method.inputType = resolve(method.inputType ?? '', file.package ?? '');
    method.outputType = resolve(method.outputType ?? '', file.package ?? '');
  }
  used.delete(nameOf(file));
  file.dependency = [...used].toSorted();
  return file.dependency;
}

/** From the innermost scope outwards, as the language has it; a leading dot means from the top. */
function absolute(name: string, scope: string, fileOfSymbol: ReadonlyMap<string, string>): string {
  if (name.startsWith('.')) return name.slice(1);
  for (let outer = scope; outer !== ''; outer = outer.slice(0, Math.max(0, outer.lastIndexOf('.')))) {
    if (fileOfSymbol.has(join(outer, name))) return join(outer, name);
  }
  return name;
}
