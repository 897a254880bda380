package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/exp/proto/spiffe/broker"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	delegated "github.com/spiffe/spire-api-sdk/proto/spire/api/agent/delegatedidentity/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// brokerCommand asks the broker endpoint on behalf of what the reference names, with go-spiffe's own client and an SVID of
// this program's own; prints every message, and at the end why there is none any more.
func brokerCommand(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("broker")
	target := flags.String("broker", "", "address of the broker endpoint, unix:///... or host:port")
	agent := flags.String("agent", "", "SPIFFE ID of the agent")
	reference := flags.String("reference", "", "pid:NUMBER, pod:NAMESPACE/NAME or uid:UID")
	audience := flags.String("audience", "", "asks for tokens for it instead")
	bundles := flags.Bool("bundles", false, "asks for bundles instead")
	header := flags.String("header", "true", "value of the security header")
	_ = flags.Parse(args)

	bounded, cancel := flags.bounded(ctx)
	defer cancel()
	source, err := workloadapi.NewX509Source(bounded, flags.source())
	if err != nil {
		return err
	}
	defer source.Close()
	expected, err := spiffeid.FromString(*agent)
	if err != nil {
		return err
	}
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(expected))
	conn, err := grpc.NewClient(*target, grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithAuthority("localhost"))
	if err != nil {
		return err
	}
	defer conn.Close()
	named, err := workloadReference(*reference)
	if err != nil {
		return err
	}
	client := broker.NewAPIClient(conn)
	ctx = metadata.AppendToOutgoingContext(ctx, "broker.spiffe.io", *header)
	switch {
	case *audience != "":
		response, err := client.FetchJWTSVID(ctx, &broker.FetchJWTSVIDRequest{Reference: named, Audience: []string{*audience}})
		if err != nil {
			return refused(err)
		}
		for _, svid := range response.Svids {
			print("token", object{"id": svid.SpiffeId})
		}
		return nil
	case *bundles:
		x509Stream, err := client.SubscribeToX509Bundles(ctx, &broker.SubscribeToX509BundlesRequest{Reference: named})
		if err != nil {
			return refused(err)
		}
		x509Bundles, err := x509Stream.Recv()
		if err != nil {
			return refused(err)
		}
		jwtStream, err := client.SubscribeToJWTBundles(ctx, &broker.SubscribeToJWTBundlesRequest{Reference: named})
		if err != nil {
			return refused(err)
		}
		jwtBundles, err := jwtStream.Recv()
		if err != nil {
			return refused(err)
		}
		print("bundles", object{"x509": keys(x509Bundles.Bundles), "jwt": keys(jwtBundles.Bundles)})
		return nil
	}
	stream, err := client.SubscribeToX509SVID(ctx, &broker.SubscribeToX509SVIDRequest{Reference: named})
	if err != nil {
		return refused(err)
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return refused(err)
		}
		svids := []object{}
		for _, svid := range response.Svids {
			svids = append(svids, object{"id": svid.SpiffeId, "serial": serialOf(svid.X509Svid, svid.X509SvidKey)})
		}
		print("svids", object{"svids": svids})
	}
}

// delegateCommand does the same with SPIRE's delegated identity on the operators' socket.
func delegateCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("delegate", flag.ExitOnError)
	target := flags.String("admin", "", "address of the agent's admin socket, unix:///...")
	pid := flags.Int("pid", 0, "process to act for")
	selectors := flags.String("selectors", "", "selectors to act for, with commas between")
	audience := flags.String("audience", "", "asks for tokens for it instead")
	bundles := flags.Bool("bundles", false, "asks for bundles instead")
	_ = flags.Parse(args)

	conn, err := grpc.NewClient(*target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := delegated.NewDelegatedIdentityClient(conn)
	chosen := []*types.Selector{}
	for _, text := range strings.Split(*selectors, ",") {
		if kind, value, found := strings.Cut(text, ":"); found {
			chosen = append(chosen, &types.Selector{Type: kind, Value: value})
		}
	}
	number := int32(*pid)
	switch {
	case *audience != "":
		response, err := client.FetchJWTSVIDs(ctx, &delegated.FetchJWTSVIDsRequest{Audience: []string{*audience}, Selectors: chosen, Pid: number})
		if err != nil {
			return refused(err)
		}
		for _, svid := range response.Svids {
			print("token", object{"id": svid.Id.TrustDomain + svid.Id.Path, "lifetime": svid.ExpiresAt - svid.IssuedAt})
		}
		return nil
	case *bundles:
		x509Stream, err := client.SubscribeToX509Bundles(ctx, &delegated.SubscribeToX509BundlesRequest{})
		if err != nil {
			return refused(err)
		}
		x509Bundles, err := x509Stream.Recv()
		if err != nil {
			return refused(err)
		}
		jwtStream, err := client.SubscribeToJWTBundles(ctx, &delegated.SubscribeToJWTBundlesRequest{})
		if err != nil {
			return refused(err)
		}
		jwtBundles, err := jwtStream.Recv()
		if err != nil {
			return refused(err)
		}
		print("bundles", object{"x509": keys(x509Bundles.CaCertificates), "jwt": keys(jwtBundles.Bundles)})
		return nil
	}
	stream, err := client.SubscribeToX509SVIDs(ctx, &delegated.SubscribeToX509SVIDsRequest{Selectors: chosen, Pid: number})
	if err != nil {
		return refused(err)
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return refused(err)
		}
		svids := []object{}
		for _, svid := range response.X509Svids {
			id := svid.X509Svid.Id
			svids = append(svids, object{
				"id":     id.TrustDomain + id.Path,
				"serial": serialOf(svid.X509Svid.CertChain[0], svid.X509SvidKey),
				"left":   svid.X509Svid.ExpiresAt - time.Now().Unix(),
			})
		}
		print("svids", object{"svids": svids, "federatesWith": append([]string{}, response.FederatesWith...)})
	}
}

func workloadReference(text string) (*broker.WorkloadReference, error) {
	kind, rest, _ := strings.Cut(text, ":")
	var message proto.Message
	pods := &broker.KubernetesObjectType{Plural: "pods", Group: "core"}
	switch kind {
	case "pid":
		pid, err := strconv.ParseInt(rest, 10, 32)
		if err != nil {
			return nil, err
		}
		message = &broker.WorkloadPIDReference{Pid: int32(pid)}
	case "pod":
		namespace, name, _ := strings.Cut(rest, "/")
		message = &broker.KubernetesObjectReference{Type: pods, Key: &broker.KubernetesObjectKey{Namespace: namespace, Name: name}}
	case "uid":
		message = &broker.KubernetesObjectReference{Type: pods, Uid: rest}
	case "":
		return nil, nil
	default:
		return nil, fmt.Errorf("no such reference: %s", text)
	}
	packed, err := anypb.New(message)
	return &broker.WorkloadReference{Reference: packed}, err
}

// refused says why, as the standard's error details have it.
func refused(err error) error {
	reasons := []string{}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "spiffe.io" {
			reasons = append(reasons, info.Reason)
		}
	}
	if !errors.Is(err, context.Canceled) {
		print("refused", object{"code": status.Code(err).String(), "message": status.Convert(err).Message(), "reasons": reasons})
	}
	return err
}

// serialOf checks that the certificates and the key can be read and belong together.
func serialOf(chain []byte, key []byte) string {
	certificates, err := x509.ParseCertificates(chain)
	if err != nil {
		return "chain: " + err.Error()
	}
	parsed, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return "key: " + err.Error()
	}
	if public, ok := publicOf(parsed); !ok || !public.Equal(certificates[0].PublicKey) {
		return "the key is another's"
	}
	return hex.EncodeToString(certificates[0].SerialNumber.Bytes())
}

type comparableKey interface {
	Equal(x crypto.PublicKey) bool
}

func publicOf(key any) (comparableKey, bool) {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, false
	}
	public, ok := signer.Public().(comparableKey)
	return public, ok
}

func keys(bundles map[string][]byte) []string {
	return slices.Sorted(maps.Keys(bundles))
}
