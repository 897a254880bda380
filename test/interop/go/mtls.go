package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const exchangeTimeout = 10 * time.Second

// tally counts exchanges from several goroutines.
type tally struct {
	sync.Mutex
	exchanges, failures int
	errors              []string
	own, peer           map[string]bool
}

func newTally() *tally {
	return &tally{own: map[string]bool{}, peer: map[string]bool{}}
}

func (t *tally) count(own string, state *tls.ConnectionState, err error) {
	t.Lock()
	defer t.Unlock()
	if err != nil {
		t.failures++
		if len(t.errors) < 10 {
			t.errors = append(t.errors, err.Error())
		}
		return
	}
	t.exchanges++
	t.own[own] = true
	t.peer[state.PeerCertificates[0].SerialNumber.Text(16)] = true
}

func (t *tally) line() object {
	t.Lock()
	defer t.Unlock()
	return object{
		"exchanges": t.exchanges, "failures": t.failures, "errors": append([]string{}, t.errors...),
		"ownSvids": len(t.own), "peerSvids": len(t.peer),
	}
}

func (t *tally) report(ctx context.Context) {
	for pause(ctx, time.Second) {
		print("progress", t.line())
	}
}

func openSource(ctx context.Context, flags workloadFlags) (*workloadapi.X509Source, error) {
	bounded, cancel := flags.bounded(ctx)
	defer cancel()
	return workloadapi.NewX509Source(bounded, flags.source())
}

func ownSerial(source *workloadapi.X509Source) string {
	svid, err := source.GetX509SVID()
	if err != nil {
		return ""
	}
	return svid.Certificates[0].SerialNumber.Text(16)
}

// mtlsServer answers each line on each connection of exactly one peer ID.
func mtlsServer(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("mtls-server")
	address := flags.String("listen", "127.0.0.1:0", "where to listen")
	peer := flags.String("peer", "", "the only SPIFFE ID let in")
	duration := flags.Duration("for", 0, "how long to stay; 0 until stopped")
	_ = flags.Parse(args)
	id, err := spiffeid.FromString(*peer)
	if err != nil {
		return err
	}
	source, err := openSource(ctx, flags)
	if err != nil {
		return err
	}
	defer source.Close()
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	ctx, cancel := lasting(ctx, *duration)
	defer cancel()
	context.AfterFunc(ctx, func() { listener.Close() })
	print("listening", object{"address": listener.Addr().String()})

	counted := newTally()
	go counted.report(ctx)
	config := tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(id))
	var open sync.WaitGroup
	for {
		raw, err := listener.Accept()
		if err != nil {
			break
		}
		open.Go(func() {
			own := ownSerial(source)
			conn := tls.Server(raw, config)
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(exchangeTimeout))
			err := answer(conn)
			state := conn.ConnectionState()
			counted.count(own, &state, err)
		})
	}
	open.Wait()
	print("done", counted.line())
	return nil
}

func answer(conn *tls.Conn) error {
	if err := conn.Handshake(); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(conn, "answer to %s", line)
	return err
}

// mtlsClient makes a connection per exchange and counts what fails.
func mtlsClient(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("mtls-client")
	address := flags.String("connect", "", "host:port of the server")
	peer := flags.String("peer", "", "the SPIFFE ID the server must have")
	every := flags.Duration("every", 100*time.Millisecond, "pause between two exchanges of one pair")
	pairs := flags.Int("pairs", 1, "how many exchange at the same time")
	duration := flags.Duration("for", 0, "how long to stay; 0 until stopped")
	_ = flags.Parse(args)
	id, err := spiffeid.FromString(*peer)
	if err != nil {
		return err
	}
	source, err := openSource(ctx, flags)
	if err != nil {
		return err
	}
	defer source.Close()
	ctx, cancel := lasting(ctx, *duration)
	defer cancel()

	counted := newTally()
	go counted.report(ctx)
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(id))
	var running sync.WaitGroup
	for pair := range *pairs {
		running.Go(func() {
			for n := 0; ; n++ {
				own := ownSerial(source)
				state, err := exchange(*address, config, fmt.Sprintf("%d.%d", pair, n))
				counted.count(own, &state, err)
				if !pause(ctx, *every) {
					return
				}
			}
		})
	}
	running.Wait()
	line := counted.line()
	print("done", line)
	if line["failures"] != 0 {
		return errors.New("exchanges failed")
	}
	return nil
}

func exchange(address string, config *tls.Config, text string) (tls.ConnectionState, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: exchangeTimeout}, "tcp", address, config)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(exchangeTimeout))
	if _, err := fmt.Fprintf(conn, "%s\n", text); err != nil {
		return conn.ConnectionState(), err
	}
	reply, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && reply != fmt.Sprintf("answer to %s\n", text) {
		err = fmt.Errorf("wrong answer %q", reply)
	}
	return conn.ConnectionState(), err
}
