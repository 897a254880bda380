/**
 * gRPC health on the Workload API's socket, as SPIRE's agents answer it: whether the agent can serve, asked without the
 * header. Which conditions that depends on is the agent's composition.
 */
import type { HealthDefinition } from '../../proto/gen/grpc/health/v1/Health.ts';
import type { HealthCheckRequest__Output } from '../../proto/gen/grpc/health/v1/HealthCheckRequest.ts';
import type { HealthCheckResponse } from '../../proto/gen/grpc/health/v1/HealthCheckResponse.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { ServiceHandlers } from '../../runtime/rpc/handlers.ts';

export function healthApi<P>(isServing: () => boolean): ServiceHandlers<HealthDefinition, P> {
  const unsupported = (): never => {
    throw new SpiffeError('unsupported', 'health.unsupported', 'only Check is supported');
  };
  return {
    async Check(request: HealthCheckRequest__Output): Promise<HealthCheckResponse> {
      if (request.service !== '') throw new SpiffeError('invalid', 'health.service', 'per-service health is not supported');
      return { status: isServing() ? 'SERVING' : 'NOT_SERVING' };
    },
    List: unsupported,
    Watch: unsupported,
  };
}
