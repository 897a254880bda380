/**
 * gRPC channel credentials over `runtime/tls.ts`: the connection is handed to HTTP/2 only after the server was proved.
 * grpc-js's own TLS credentials would leave the chain to OpenSSL and ask us only about what OpenSSL already accepted.
 */
import type { Socket } from 'node:net';
import { CallCredentials, ChannelCredentials } from '@grpc/grpc-js';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { TlsClient, TlsIdentity } from '../tls.ts';
import type { ClientSecurity } from './call.ts';

type SecureConnector = ReturnType<ChannelCredentials['_createSecureConnector']>;

/** New credentials, and with them a new connection, whenever the identity or a bundle changed. */
export function secureChannel(client: TlsClient): ClientSecurity {
  let made: { readonly identity: TlsIdentity; readonly credentials: ChannelCredentials } | undefined;
  let failure: SpiffeError | undefined;

  const handshake = async (socket: Socket): Promise<Socket> => {
    try {
      const secured = await client.handshake(socket);
      failure = undefined;
      return secured;
    } catch (error) {
      failure = error instanceof SpiffeError ? error : undefined;
      throw error;
    }
  };

  return {
    current() {
      const { identity } = client;
      if (made === undefined || made.identity !== identity) made = { identity, credentials: new ProvedCredentials(handshake) };
      return made.credentials;
    },
    lastFailure: () => failure,
  };
}

class ProvedCredentials extends ChannelCredentials {
  readonly #handshake: (socket: Socket) => Promise<Socket>;

  constructor(handshake: (socket: Socket) => Promise<Socket>) {
    super();
    this.#handshake = handshake;
  }

  override _isSecure(): boolean {
    return true;
  }

  override _equals(other: ChannelCredentials): boolean {
    return this === other;
  }

  override _createSecureConnector(): SecureConnector {
    const none = CallCredentials.createEmpty();
    return {
      connect: async (socket) => ({ socket: await this.#handshake(socket), secure: true }),
      waitForReady: () => Promise.resolve(),
      getCallCredentials: () => none,
      destroy: () => undefined,
    };
  }
}
