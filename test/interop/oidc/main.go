// Command oidc verifies a JWT-SVID as a relying party of OpenID Connect does: by its issuer's discovery document and
// keys, with a library that knows nothing of SPIFFE. It prints one JSON object; what it must say is left to the scenario
// that runs it.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

func main() {
	issuer := flag.String("issuer", "", "as the token says it")
	audience := flag.String("audience", "", "who the token is for")
	ca := flag.String("ca", "", "PEM file of who vouches for the issuer's server")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	fields, err := verify(ctx, *issuer, *audience, *ca, flag.Arg(0))
	if err != nil {
		fields = map[string]any{"error": err.Error()}
	}
	_ = json.NewEncoder(os.Stdout).Encode(fields)
	if err != nil {
		os.Exit(1)
	}
}

func verify(ctx context.Context, issuer, audience, ca, token string) (map[string]any, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", ca)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	ctx = oidc.ClientContext(ctx, client)
	provider, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return nil, err
	}
	verified, err := provider.Verifier(&oidc.Config{ClientID: audience}).Verify(ctx, token)
	if err != nil {
		return nil, err
	}
	return map[string]any{"issuer": verified.Issuer, "subject": verified.Subject, "audience": verified.Audience}, nil
}
