package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// pair is one corner of the matrix: it answers calls of its own trust domain, and makes those that its input asks for.
// What is said on the wire and on the two standard streams is in ../matrix/README.md.
func pair(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("pair")
	_ = flags.Parse(args)
	bounded, cancel := flags.bounded(ctx)
	defer cancel()
	source, err := workloadapi.NewX509Source(bounded, flags.source())
	if err != nil {
		return err
	}
	defer source.Close()
	tokens, err := workloadapi.NewJWTSource(bounded, flags.source())
	if err != nil {
		return err
	}
	defer tokens.Close()
	svid, err := source.GetX509SVID()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	corner := corner{id: svid.ID, source: source, tokens: tokens}
	go corner.serve(listener)
	print("listening", object{"port": listener.Addr().(*net.TCPAddr).Port, "id": svid.ID.String()})

	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		var order struct {
			Port int    `json:"port"`
			Peer string `json:"peer"`
		}
		if err := json.Unmarshal(input.Bytes(), &order); err != nil {
			return err
		}
		corner.call(ctx, order.Port, order.Peer)
	}
	return input.Err()
}

type corner struct {
	id     spiffeid.ID
	source *workloadapi.X509Source
	tokens *workloadapi.JWTSource
}

func (c corner) serve(listener net.Listener) {
	config := tlsconfig.MTLSServerConfig(c.source, c.source, tlsconfig.AuthorizeMemberOf(c.id.TrustDomain()))
	for {
		raw, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			conn := tls.Server(raw, config)
			defer conn.Close()
			if err := c.answer(conn); err != nil {
				printError("refused", err)
			}
		}()
	}
}

func (c corner) answer(conn *tls.Conn) error {
	_ = conn.SetDeadline(time.Now().Add(exchangeTimeout))
	if err := conn.Handshake(); err != nil {
		return err
	}
	caller, err := x509svid.IDFromCert(conn.ConnectionState().PeerCertificates[0])
	if err != nil {
		return err
	}
	token, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	valid, err := jwtsvid.ParseAndValidate(token[:len(token)-1], c.tokens, []string{c.id.String()})
	if err != nil {
		return err
	}
	return json.NewEncoder(conn).Encode(object{"caller": caller.String(), "subject": valid.ID.String()})
}

func (c corner) call(ctx context.Context, port int, peer string) {
	reply, serial, err := c.exchange(ctx, port, peer)
	if err != nil {
		printError("failed", err)
		return
	}
	print("called", object{"peer": peer, "reply": reply, "peerSerial": serial, "ownSerial": ownSerial(c.source)})
}

func (c corner) exchange(ctx context.Context, port int, peer string) (reply json.RawMessage, serial string, err error) {
	id, err := spiffeid.FromString(peer)
	if err != nil {
		return nil, "", err
	}
	token, err := c.tokens.FetchJWTSVID(ctx, jwtsvid.Params{Audience: peer})
	if err != nil {
		return nil, "", err
	}
	config := tlsconfig.MTLSClientConfig(c.source, c.source, tlsconfig.AuthorizeID(id))
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: exchangeTimeout}, "tcp", fmt.Sprintf("127.0.0.1:%d", port), config)
	if err != nil {
		return nil, "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(exchangeTimeout))
	if _, err := fmt.Fprintln(conn, token.Marshal()); err != nil {
		return nil, "", err
	}
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	return line, conn.ConnectionState().PeerCertificates[0].SerialNumber.Text(16), err
}
