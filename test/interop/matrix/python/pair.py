"""One corner of the matrix with the Python packages spiffe and spiffe-tls; what is said is in ../README.md."""

import json
import logging
import os
import socket
import sys
import threading

from cryptography import x509
from OpenSSL import SSL
from spiffe import JwtSource, JwtSvid, SpiffeId, X509Source
from spiffetls import dial
from spiffetls.context import create_ssl_context
from spiffetls.mode import ClientTlsMode
from spiffetls.tlsconfig.authorize import authorize_id, authorize_member_of

# Standard output is for the lines of the protocol.
logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
printing = threading.Lock()


def say(event, **fields):
    with printing:
        print(json.dumps({"event": event, "at": 0, **fields}), flush=True)


def read_line(connection):
    data = b""
    while not data.endswith(b"\n"):
        data += connection.recv(65536)
    return data[:-1].decode()


def id_of(certificate):
    names = certificate.to_cryptography().extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)[0]


def serial_of(certificate):
    return format(certificate.get_serial_number(), "x")


def answer(raw, own, source, tokens):
    # A context of its own for each connection: the one that spiffe-tls 0.4.0 listens with can take no new SVID, because
    # pyOpenSSL 26, which it asks for, lets nobody change a context that is in use.
    context = create_ssl_context(SSL.TLS_SERVER_METHOD, source, authorize_member_of(own.trust_domain))
    connection = SSL.Connection(context, raw)
    connection.set_accept_state()
    try:
        connection.do_handshake()
        caller = id_of(connection.get_peer_certificate())
        token = read_line(connection)
        bundle = tokens.get_bundle_for_trust_domain(own.trust_domain)
        valid = JwtSvid.parse_and_validate(token, bundle, {str(own)})
        connection.sendall((json.dumps({"caller": caller, "subject": str(valid.spiffe_id)}) + "\n").encode())
        connection.shutdown()
    except Exception as error:  # whatever it is, the other end sees a closed connection
        say("refused", error=repr(error))
    finally:
        connection.close()


def serve(listener, own, source, tokens):
    while True:
        raw, _ = listener.accept()
        threading.Thread(target=answer, args=(raw, own, source, tokens), daemon=True).start()


def call(port, peer, source, tokens):
    token = tokens.fetch_svid(audience={peer}).token
    connection = dial(f"127.0.0.1:{port}", source, ClientTlsMode.TLS, authorize_id(SpiffeId(peer)))
    try:
        connection.sendall((token + "\n").encode())
        reply = json.loads(read_line(connection))
        serial = serial_of(connection.get_peer_certificate())
    finally:
        connection.close()
    say("called", peer=peer, reply=reply, peerSerial=serial, ownSerial=format(source.svid.leaf.serial_number, "x"))


def main():
    source, tokens = X509Source(), JwtSource()
    own = source.svid.spiffe_id
    listener = socket.create_server(("127.0.0.1", 0))
    say("listening", port=listener.getsockname()[1], id=str(own))
    threading.Thread(target=serve, args=(listener, own, source, tokens), daemon=True).start()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            call(order["port"], order["peer"], source, tokens)
        except Exception as error:
            say("failed", error=repr(error))
    # Threads of the libraries may outlive the work.
    sys.stdout.flush()
    os._exit(0)


main()
