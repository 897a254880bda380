package main

import (
	"context"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// x509Source prints the default X509-SVID and each one that replaces it.
func x509Source(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("x509source")
	duration := flags.Duration("for", 0, "how long to stay; 0 until stopped")
	updates := flags.Int("updates", 0, "leave after so many SVIDs; 0 never")
	_ = flags.Parse(args)

	first, cancel := flags.bounded(ctx)
	defer cancel()
	source, err := workloadapi.NewX509Source(first, flags.source())
	if err != nil {
		return err
	}
	defer source.Close()

	ctx, cancel = lasting(ctx, *duration)
	defer cancel()
	for seen, last := 0, ""; ; {
		svid, err := source.GetX509SVID()
		if err != nil {
			return err
		}
		if serial := svid.Certificates[0].SerialNumber.Text(16); serial != last {
			last = serial
			seen++
			print("svid", describeX509(svid))
		}
		if *updates > 0 && seen >= *updates {
			return nil
		}
		select {
		case <-source.Updated():
		case <-ctx.Done():
			print("done", object{"svids": seen})
			return nil
		}
	}
}

func describeX509(svid *x509svid.SVID) object {
	leaf := svid.Certificates[0]
	return object{
		"id":        svid.ID.String(),
		"serial":    leaf.SerialNumber.Text(16),
		"notBefore": leaf.NotBefore.UnixMilli(),
		"notAfter":  leaf.NotAfter.UnixMilli(),
		"chain":     len(svid.Certificates),
		"dnsNames":  append([]string{}, leaf.DNSNames...),
		"hint":      svid.Hint,
	}
}

// jwtSource fetches tokens and validates each with the bundles of the same source.
func jwtSource(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("jwtsource")
	audience := flags.String("audience", "interop", "audiences, comma separated")
	subject := flags.String("spiffe-id", "", "only this identity")
	repeat := flags.Int("repeat", 1, "how many times")
	every := flags.Duration("every", time.Second, "pause between two")
	show := flags.Bool("show", false, "print the token itself")
	_ = flags.Parse(args)

	first, cancel := flags.bounded(ctx)
	defer cancel()
	source, err := workloadapi.NewJWTSource(first, flags.source())
	if err != nil {
		return err
	}
	defer source.Close()

	audiences := strings.Split(*audience, ",")
	params := jwtsvid.Params{Audience: audiences[0], ExtraAudiences: audiences[1:]}
	if *subject != "" {
		if params.Subject, err = spiffeid.FromString(*subject); err != nil {
			return err
		}
	}
	for n := range *repeat {
		if n > 0 && !pause(ctx, *every) {
			break
		}
		bounded, cancel := flags.bounded(ctx)
		svid, err := source.FetchJWTSVID(bounded, params)
		cancel()
		if err != nil {
			return err
		}
		valid, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{audiences[0]})
		if err != nil {
			return err
		}
		line := object{"id": valid.ID.String(), "audience": valid.Audience, "expiry": valid.Expiry.UnixMilli(), "hint": svid.Hint}
		if *show {
			line["token"] = svid.Marshal()
		}
		print("token", line)
	}
	return nil
}

// bundles prints what both bundle calls answer first.
func bundles(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("bundles")
	_ = flags.Parse(args)
	ctx, cancel := flags.bounded(ctx)
	defer cancel()
	x509, err := workloadapi.FetchX509Bundles(ctx, flags.address())
	if err != nil {
		return err
	}
	print("x509", object{"trustDomains": x509Counts(x509)})
	jwt, err := workloadapi.FetchJWTBundles(ctx, flags.address())
	if err != nil {
		return err
	}
	print("jwt", object{"trustDomains": jwtKeys(jwt)})
	return nil
}

func x509Counts(set *x509bundle.Set) map[string]int {
	counts := map[string]int{}
	for _, bundle := range set.Bundles() {
		counts[bundle.TrustDomain().Name()] = len(bundle.X509Authorities())
	}
	return counts
}

func jwtKeys(set *jwtbundle.Set) map[string][]string {
	keys := map[string][]string{}
	for _, bundle := range set.Bundles() {
		ids := []string{}
		for id := range bundle.JWTAuthorities() {
			ids = append(ids, id)
		}
		keys[bundle.TrustDomain().Name()] = ids
	}
	return keys
}

type contextWatcher struct{ ctx context.Context }

func (contextWatcher) OnX509ContextUpdate(update *workloadapi.X509Context) {
	svids := []object{}
	for _, svid := range update.SVIDs {
		svids = append(svids, describeX509(svid))
	}
	print("update", object{"svids": svids, "bundles": x509Counts(update.Bundles)})
}

func (w contextWatcher) OnX509ContextWatchError(err error) { w.refused("refused", err) }

func (contextWatcher) OnJWTBundlesUpdate(set *jwtbundle.Set) {
	print("jwt-bundles", object{"trustDomains": jwtKeys(set)})
}

func (w contextWatcher) OnJWTBundlesWatchError(err error) { w.refused("jwt-bundles-refused", err) }

// refused leaves out the errors that only say that the time is up.
func (w contextWatcher) refused(event string, err error) {
	if w.ctx.Err() == nil {
		printError(event, err)
	}
}

// watch prints every update and every refusal, retrying as go-spiffe does.
func watch(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("watch")
	duration := flags.Duration("for", 0, "how long to stay; 0 until stopped")
	_ = flags.Parse(args)
	ctx, cancel := lasting(ctx, *duration)
	defer cancel()
	client, err := workloadapi.New(ctx, flags.address())
	if err != nil {
		return err
	}
	defer client.Close()
	ends := make(chan error, 2)
	go func() { ends <- client.WatchX509Context(ctx, contextWatcher{ctx}) }()
	go func() { ends <- client.WatchJWTBundles(ctx, contextWatcher{ctx}) }()
	for range 2 {
		if err := <-ends; ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// validate asks the agent about a token.
func validate(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("validate")
	token := flags.String("token", "", "the token")
	audience := flags.String("audience", "interop", "the audience it must be for")
	_ = flags.Parse(args)
	ctx, cancel := flags.bounded(ctx)
	defer cancel()
	svid, err := workloadapi.ValidateJWTSVID(ctx, *token, *audience, flags.address())
	if err != nil {
		return err
	}
	print("valid", object{"id": svid.ID.String(), "audience": svid.Audience, "claims": svid.Claims})
	return nil
}

// pause is false when the context ended first.
func pause(ctx context.Context, duration time.Duration) bool {
	select {
	case <-time.After(duration):
		return true
	case <-ctx.Done():
		return false
	}
}
