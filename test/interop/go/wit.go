package main

import (
	"context"
	"crypto/ecdsa"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/exp/svid/witsvid"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// witSource prints the WIT-SVID of an identity and each one that replaces it, each validated by the bundles of the source
// and held against its private key.
func witSource(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("witsource")
	name := flags.String("id", "", "whose WIT-SVID")
	updates := flags.Int("updates", 1, "leave after so many WIT-SVIDs")
	_ = flags.Parse(args)
	id, err := spiffeid.FromString(*name)
	if err != nil {
		return err
	}

	first, cancel := flags.bounded(ctx)
	defer cancel()
	source, err := workloadapi.NewWITSource(first, workloadapi.WithClientOptions(flags.address()))
	if err != nil {
		return err
	}
	defer source.Close()

	for seen, last := 0, ""; seen < *updates; {
		svid, err := source.GetWITSVIDForID(id)
		if err != nil {
			return err
		}
		if token := svid.Marshal(); token != last {
			last = token
			seen++
			if err := checkWIT(svid, source); err != nil {
				return err
			}
			print("wit", object{"id": svid.ID.String(), "keyId": svid.KeyID, "expiresAt": svid.Expiry.UnixMilli(), "hint": svid.Hint})
		}
		if seen >= *updates {
			return nil
		}
		select {
		case <-source.Updated():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func checkWIT(svid *witsvid.SVID, source *workloadapi.WITSource) error {
	validated, err := witsvid.ParseAndValidate(svid.Marshal(), source)
	if err != nil {
		return err
	}
	key, ok := svid.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(validated.PublicKey) {
		return fmt.Errorf("the private key is not that of the WIT-SVID")
	}
	return nil
}

// witOnce makes one call of each WIT method, and prints what comes of it.
func witOnce(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("wit")
	_ = flags.Parse(args)
	ctx, cancel := flags.bounded(ctx)
	defer cancel()
	client, err := workloadapi.New(ctx, flags.address())
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.FetchWITBundles(ctx); err != nil {
		printError("bundles", err)
	} else {
		print("bundles", object{})
	}
	svids, err := client.FetchWITSVIDs(ctx, "")
	if err != nil {
		printError("svids", err)
		return nil
	}
	print("svids", object{"count": len(svids)})
	return nil
}
