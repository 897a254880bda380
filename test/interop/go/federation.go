package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// fetchBundle prints a trust domain's bundle and each that differs from it, as its endpoint tells them.
func fetchBundle(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("fetch-bundle")
	name := flags.String("trust-domain", "", "whose bundle it is")
	url := flags.String("url", "", "where it is published")
	endpointID := flags.String("endpoint-id", "", "the server's SPIFFE ID; by authorities of the web without one")
	trust := flags.String("trust", "", "bundle document of the endpoint's trust domain, or PEM of the web's authorities")
	updates := flags.Int("updates", 1, "leave after so many bundles")
	every := flags.Duration("every", 200*time.Millisecond, "when to fetch again")
	_ = flags.Parse(args)

	trustDomain, err := spiffeid.TrustDomainFromString(*name)
	if err != nil {
		return err
	}
	option, err := endpointOption(*endpointID, *trust)
	if err != nil {
		return err
	}
	ctx, cancel := flags.bounded(ctx)
	defer cancel()
	watcher := &bundleWatcher{every: *every, left: *updates, cancel: cancel}
	err = federation.WatchBundle(ctx, trustDomain, *url, watcher, option)
	if watcher.left > 0 {
		return errors.Join(watcher.err, err)
	}
	return nil
}

func endpointOption(endpointID, trust string) (federation.FetchOption, error) {
	if endpointID == "" {
		pem, err := os.ReadFile(trust)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		return federation.WithWebPKIRoots(roots), nil
	}
	id, err := spiffeid.FromString(endpointID)
	if err != nil {
		return nil, err
	}
	bundle, err := spiffebundle.Load(id.TrustDomain(), trust)
	if err != nil {
		return nil, err
	}
	return federation.WithSPIFFEAuth(bundle, id), nil
}

type bundleWatcher struct {
	every  time.Duration
	left   int
	err    error
	cancel context.CancelFunc
}

func (w *bundleWatcher) NextRefresh(time.Duration) time.Duration { return w.every }

func (w *bundleWatcher) OnUpdate(bundle *spiffebundle.Bundle) {
	print("bundle", describeBundle(bundle))
	if w.left--; w.left == 0 {
		w.cancel()
	}
}

func (w *bundleWatcher) OnError(err error) {
	w.err = err
	w.cancel()
}

func describeBundle(bundle *spiffebundle.Bundle) object {
	keys := make([]string, 0)
	for id := range bundle.JWTAuthorities() {
		keys = append(keys, id)
	}
	slices.Sort(keys)
	sequence, _ := bundle.SequenceNumber()
	hint, _ := bundle.RefreshHint()
	return object{
		"trustDomain": bundle.TrustDomain().Name(),
		"x509":        len(bundle.X509Authorities()),
		"keys":        keys,
		"sequence":    sequence,
		"hint":        hint.Seconds(),
	}
}

// serveBundle serves a bundle out of a file with the agent's X509-SVID, until it is stopped.
func serveBundle(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("serve-bundle")
	name := flags.String("trust-domain", "", "whose bundle it is")
	file := flags.String("bundle", "", "its document")
	_ = flags.Parse(args)

	trustDomain, err := spiffeid.TrustDomainFromString(*name)
	if err != nil {
		return err
	}
	bundle, err := spiffebundle.Load(trustDomain, *file)
	if err != nil {
		return err
	}
	handler, err := federation.NewHandler(trustDomain, bundle)
	if err != nil {
		return err
	}
	first, cancel := flags.bounded(ctx)
	defer cancel()
	source, err := workloadapi.NewX509Source(first, flags.source())
	if err != nil {
		return err
	}
	defer source.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	print("serving", object{"port": listener.Addr().(*net.TCPAddr).Port})
	err = server.Serve(tls.NewListener(listener, tlsconfig.TLSServerConfig(source)))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
