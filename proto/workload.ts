/**
 * The Workload API's service definition without reading a file, for the library and what stands on it; programs that serve
 * more take it from `load.ts`, in the same form.
 */
import { fromJSON, type Options } from '@grpc/proto-loader';
import { workloadDescriptors } from './gen/workload-descriptors.ts';
import type { SpiffeWorkloadAPIDefinition } from './gen/SpiffeWorkloadAPI.ts';

/**
 * What a decoded message looks like: names as in the .proto file; 64-bit integers as decimal strings; enums by name, and
 * a number where the number has no name, so that it can be refused; bytes as Buffer. Absent scalars, lists and maps have
 * their empty value, an absent message is null. Members of a oneof, `optional` fields included, are undefined when absent,
 * and a property named like the oneof (`_field` for an optional field) names the one present.
 */
export const messageShape: Options = {
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
  oneofs: true,
  arrays: true,
  objects: true,
};

let loaded: SpiffeWorkloadAPIDefinition | undefined;

/** As `loadServices('SpiffeWorkloadAPI')`. */
export function loadWorkloadService(): SpiffeWorkloadAPIDefinition {
  // The loader's types want unions where the value has texts.
  const descriptors = workloadDescriptors as unknown as Parameters<typeof fromJSON>[0];
  loaded ??= fromJSON(descriptors, messageShape)['SpiffeWorkloadAPI'] as unknown as SpiffeWorkloadAPIDefinition;
  return loaded;
}
