package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	attestMethod = "/spire.api.server.agent.v1.Agent/AttestAgent"
	signMethod   = "/spire.api.server.svid.v1.SVID/BatchNewX509SVID"
	issueMethod  = "/steeple.node.v1.Node/Issue"
	callTimeout  = 30 * time.Second
)

// spireLoad plays agents towards a server: attests, and has many X509-SVIDs signed.
func spireLoad(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("spireload")
	mode := flags.String("mode", "sign", "sign (BatchNewX509SVID), issue (our own lean request), attest or follow")
	server := flags.String("server", "127.0.0.1:8081", "host:port")
	domain := flags.String("trust-domain", "example.org", "the server's trust domain")
	bundlePath := flags.String("bundle", "", "PEM file of its authorities")
	token := flags.String("join-token", "", "join token to become an agent with")
	tokens := flags.String("tokens", "", "attest, follow: file with a join token a line, one agent each")
	certificate := flags.String("cert", "", "instead of a join token: PEM chain of an agent SVID")
	key := flags.String("key", "", "instead of a join token: PEM key of it")
	kept := flags.String("keep-svid", "", "write the SVID that the token got to PATH.pem and PATH.key")
	entries := flags.String("entries", "", "entry ids, comma separated, or @file with one a line")
	batch := flags.Int("batch", 500, "items per call")
	workers := flags.Int("c", 2, "calls at the same time, each on a connection of its own")
	duration := flags.Duration("for", 10*time.Second, "how long")
	settling := flags.Duration("settle", 5*time.Second, "follow: how long after the last agent began its stream")
	_ = flags.Parse(args)

	trustDomain, err := spiffeid.TrustDomainFromString(*domain)
	if err != nil {
		return err
	}
	bundle, err := x509bundle.Load(trustDomain, *bundlePath)
	if err != nil {
		return err
	}
	target := loadTarget{address: *server, bundle: bundle}
	if *mode == "attest" || *mode == "follow" {
		list, err := linesOf("@" + *tokens)
		if err != nil {
			return err
		}
		if *mode == "follow" {
			return followMany(ctx, target, list, *workers, *settling, *duration)
		}
		return attestMany(ctx, target, list, *workers)
	}

	var svid *x509svid.SVID
	if *certificate != "" {
		svid, err = x509svid.Load(*certificate, *key)
	} else {
		svid, err = attest(ctx, target, *token)
		if err == nil && *kept != "" {
			err = keep(svid, *kept)
		}
	}
	if err != nil {
		return err
	}
	ids, err := linesOf(*entries)
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		return errors.New("no entries given")
	}
	switch *mode {
	case "sign":
		return signMany(ctx, target, svid, spireRequest, signMethod, ids, *batch, *workers, *duration)
	case "issue":
		return signMany(ctx, target, svid, leanRequest, issueMethod, ids, *batch, *workers, *duration)
	}
	return fmt.Errorf("unknown mode %q", *mode)
}

type loadTarget struct {
	address string
	bundle  *x509bundle.Bundle
}

// open connects as the agent, or without a certificate when there is no SVID yet.
func (t loadTarget) open(svid *x509svid.SVID) (*grpc.ClientConn, error) {
	authorize := tlsconfig.AuthorizeID(spiffeid.RequireFromPath(t.bundle.TrustDomain(), "/spire/server"))
	var config *tls.Config
	if svid == nil {
		config = tlsconfig.TLSClientConfig(t.bundle, authorize)
	} else {
		config = tlsconfig.MTLSClientConfig(svid, t.bundle, authorize)
	}
	return grpc.NewClient("passthrough:///"+t.address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
}

// linesOf splits at commas, or reads the lines of the file after an @.
func linesOf(text string) ([]string, error) {
	separator := ","
	if path, isFile := strings.CutPrefix(text, "@"); isFile {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		text, separator = string(content), "\n"
	}
	lines := []string{}
	for line := range strings.SplitSeq(text, separator) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

// attest spends the token on a connection of its own.
func attest(ctx context.Context, target loadTarget, token string) (*x509svid.SVID, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := requestFor(key)
	if err != nil {
		return nil, err
	}
	conn, err := target.open(nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, attestMethod,
		grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return nil, err
	}
	data := fieldOf(fieldOf(nil, 1, []byte("join_token")), 2, []byte(token))
	request := fieldOf(nil, 1, fieldOf(fieldOf(nil, 1, data), 2, fieldOf(nil, 1, csr)))
	if err := stream.SendMsg(&request); err != nil {
		return nil, err
	}
	var response []byte
	if err := stream.RecvMsg(&response); err != nil {
		return nil, err
	}
	_ = stream.CloseSend()
	result, err := fieldBytes(response, 1)
	if err != nil || result == nil {
		return nil, errors.Join(errors.New("no result"), err)
	}
	message, err := fieldBytes(result, 1)
	if err != nil {
		return nil, err
	}
	chain, err := fieldList(message, 1)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return x509svid.ParseRaw(slices.Concat(chain...), pkcs8)
}

func keep(svid *x509svid.SVID, path string) error {
	certificates, key, err := svid.Marshal()
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".pem", certificates, 0o600); err != nil {
		return err
	}
	return os.WriteFile(path+".key", key, 0o600)
}

func attestMany(ctx context.Context, target loadTarget, tokens []string, workers int) error {
	var next atomic.Int64
	var failures failureTally
	times := make([][]time.Duration, workers)
	began := time.Now()
	var running sync.WaitGroup
	for worker := range workers {
		running.Go(func() {
			for n := next.Add(1); n <= int64(len(tokens)) && ctx.Err() == nil; n = next.Add(1) {
				started := time.Now()
				if _, err := attest(ctx, target, tokens[n-1]); !failures.add(err) {
					times[worker] = append(times[worker], time.Since(started))
				}
			}
		})
	}
	running.Wait()
	line := distribution(slices.Concat(times...), time.Since(began))
	line["mode"], line["workers"] = "attest", workers
	failures.into(line)
	print("load", line)
	return nil
}

func requestFor(key *ecdsa.PrivateKey) ([]byte, error) {
	subject := pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
}

// spireRequest is one NewX509SVIDParams: entry id and CSR.
func spireRequest(entry string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := requestFor(key)
	return fieldOf(fieldOf(nil, 1, []byte(entry)), 2, csr), err
}

// leanRequest is one X509Request: entry id and public key.
func leanRequest(entry string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	return fieldOf(fieldOf(nil, 1, []byte(entry)), 2, spki), err
}

// signMany prepares one batch per worker before the clock starts, so that the client's own work stays out of the figure.
// Every worker has a connection of its own, as every agent has.
func signMany(
	ctx context.Context, target loadTarget, svid *x509svid.SVID, item func(string) ([]byte, error), method string,
	entries []string, batch, workers int, duration time.Duration,
) error {
	requests := make([][]byte, workers)
	for worker := range workers {
		for n := range batch {
			one, err := item(entries[(worker*batch+n)%len(entries)])
			if err != nil {
				return err
			}
			requests[worker] = fieldOf(requests[worker], 1, one)
		}
	}
	conns := make([]*grpc.ClientConn, workers)
	for worker := range workers {
		conn, err := target.open(svid)
		if err != nil {
			return err
		}
		defer conn.Close()
		conns[worker] = conn
	}

	var signed, refused atomic.Int64
	var failures failureTally
	times := make([][]time.Duration, workers)
	ctx, cancel := lasting(ctx, duration)
	defer cancel()
	began := time.Now()
	var running sync.WaitGroup
	for worker := range workers {
		running.Go(func() {
			for ctx.Err() == nil {
				started := time.Now()
				// The call that is under way at the end may finish.
				bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
				response, err := invoke(bounded, conns[worker], method, requests[worker])
				cancel()
				if failures.add(err) {
					continue
				}
				good, bad, err := countResults(response, method)
				if failures.add(err) {
					continue
				}
				signed.Add(good)
				refused.Add(bad)
				times[worker] = append(times[worker], time.Since(started))
			}
		})
	}
	running.Wait()
	elapsed := time.Since(began)
	line := distribution(slices.Concat(times...), elapsed)
	line["mode"], line["workers"], line["batch"] = method, workers, batch
	line["signed"], line["refused"], line["signedPerSecond"] = signed.Load(), refused.Load(), float64(signed.Load())/elapsed.Seconds()
	failures.into(line)
	print("load", line)
	return nil
}

// countResults tells items with a certificate from items without. Both answers hold their results in field 1; in SPIRE's
// the SVID is field 2 and its chain field 1, in ours the chain is field 2.
func countResults(response []byte, method string) (good, bad int64, err error) {
	results, err := fieldList(response, 1)
	if err != nil {
		return 0, 0, err
	}
	for _, result := range results {
		chain, err := fieldList(result, 2)
		if err == nil && method == signMethod && len(chain) == 1 {
			chain, err = fieldList(chain[0], protowire.Number(1))
		}
		if err != nil {
			return 0, 0, err
		}
		if len(chain) > 0 {
			good++
		} else {
			bad++
		}
	}
	return good, bad, nil
}
