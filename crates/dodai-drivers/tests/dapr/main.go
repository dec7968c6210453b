// Dapr's own stores and brokers, for tests that let them and the drivers go on with each other's data. Reads a request a
// line, each a JSON object, and answers each with one.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dapr/components-contrib/configuration"
	configpostgres "github.com/dapr/components-contrib/configuration/postgres"
	configredis "github.com/dapr/components-contrib/configuration/redis"
	"github.com/dapr/components-contrib/lock"
	lockredis "github.com/dapr/components-contrib/lock/redis"
	"github.com/dapr/components-contrib/metadata"
	"github.com/dapr/components-contrib/pubsub"
	pubsubredis "github.com/dapr/components-contrib/pubsub/redis"
	"github.com/dapr/components-contrib/state"
	statepostgres1 "github.com/dapr/components-contrib/state/postgresql/v1"
	statepostgres2 "github.com/dapr/components-contrib/state/postgresql/v2"
	stateredis "github.com/dapr/components-contrib/state/redis"
	"github.com/dapr/kit/logger"
)

// How long one request may take.
const patience = 30 * time.Second

type request struct {
	Do string
	// The name of a component; with `open` its kind and what is set of it too.
	Of       string
	Kind     string
	Metadata map[string]string
	// A key, a topic or a resource.
	Key string
	// Bytes; with `Parsed` they are JSON that is handed on as what it says, as daprd does for its HTTP API.
	Value  []byte
	Parsed bool
	Etag   *string
	First  bool
	Steps  []request
	Owner  string
	// How many deliveries are answered with an error first.
	Refuse int
}

type answer struct {
	Error    string            `json:"error,omitempty"`
	Key      string            `json:"key,omitempty"`
	Value    []byte            `json:"value"`
	Etag     *string           `json:"etag,omitempty"`
	Version  string            `json:"version,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	// What a lock says: whether it was taken, or how giving it back went.
	Taken  bool `json:"taken"`
	Status int  `json:"status"`
}

// A component and what came of its subscriptions.
type component struct {
	it   any
	news chan answer
}

var (
	quiet      = logger.NewLogger("stores")
	components = map[string]*component{}
)

func open(ctx context.Context, wanted request) error {
	base := metadata.Base{Name: wanted.Of, Properties: wanted.Metadata}
	opened := &component{news: make(chan answer, 1000)}
	components[wanted.Of] = opened
	as := func(store state.Store) error {
		opened.it = store
		return store.Init(ctx, state.Metadata{Base: base})
	}
	switch wanted.Kind {
	case "state.redis":
		return as(stateredis.NewRedisStateStore(quiet))
	case "state.postgresql/v1":
		return as(statepostgres1.NewPostgreSQLStateStore(quiet))
	case "state.postgresql/v2":
		return as(statepostgres2.NewPostgreSQLStateStore(quiet))
	case "pubsub.redis":
		broker := pubsubredis.NewRedisStreams(quiet)
		opened.it = broker
		return broker.Init(ctx, pubsub.Metadata{Base: base})
	case "configuration.redis", "configuration.postgresql":
		store := configredis.NewRedisConfigurationStore(quiet)
		if wanted.Kind == "configuration.postgresql" {
			store = configpostgres.NewPostgresConfigurationStore(quiet)
		}
		opened.it = store
		return store.Init(ctx, configuration.Metadata{Base: base})
	case "lock.redis":
		store := lockredis.NewStandaloneRedisLock(quiet)
		opened.it = store
		return store.InitLockStore(ctx, lock.Metadata{Base: base})
	}
	return fmt.Errorf("no kind %q", wanted.Kind)
}

func set(wanted request) (state.SetRequest, error) {
	made := state.SetRequest{Key: wanted.Key, Value: wanted.Value, ETag: wanted.Etag, Metadata: wanted.Metadata}
	if wanted.First {
		made.Options.Concurrency = state.FirstWrite
	}
	if !wanted.Parsed {
		return made, nil
	}
	var parsed any
	err := json.Unmarshal(wanted.Value, &parsed)
	made.Value = parsed
	return made, err
}

func ofState(ctx context.Context, store state.Store, wanted request) (answer, error) {
	switch wanted.Do {
	case "get":
		found, err := store.Get(ctx, &state.GetRequest{Key: wanted.Key})
		if err != nil {
			return answer{}, err
		}
		return answer{Value: found.Data, Etag: found.ETag, Metadata: found.Metadata}, nil
	case "set":
		made, err := set(wanted)
		if err != nil {
			return answer{}, err
		}
		return answer{}, store.Set(ctx, &made)
	case "delete":
		return answer{}, store.Delete(ctx, &state.DeleteRequest{Key: wanted.Key, ETag: wanted.Etag})
	case "transact":
		all := state.TransactionalStateRequest{}
		for _, step := range wanted.Steps {
			if step.Do == "delete" {
				all.Operations = append(all.Operations, state.DeleteRequest{Key: step.Key, ETag: step.Etag})
				continue
			}
			made, err := set(step)
			if err != nil {
				return answer{}, err
			}
			all.Operations = append(all.Operations, made)
		}
		return answer{}, store.(state.TransactionalStore).Multi(ctx, &all)
	}
	return answer{}, errors.New("no such request of a state store")
}

func ofPubsub(ctx context.Context, broker pubsub.PubSub, news chan answer, wanted request) error {
	switch wanted.Do {
	case "publish":
		return broker.Publish(ctx, &pubsub.PublishRequest{Topic: wanted.Key, Data: wanted.Value, Metadata: wanted.Metadata})
	case "subscribe":
		refuse := wanted.Refuse
		// It ends with the process.
		return broker.Subscribe(context.Background(), pubsub.SubscribeRequest{Topic: wanted.Key}, func(_ context.Context, told *pubsub.NewMessage) error {
			if refuse > 0 {
				refuse--
				news <- answer{Key: "refused", Value: told.Data}
				return errors.New("refused on purpose")
			}
			news <- answer{Key: told.Topic, Value: told.Data, Metadata: told.Metadata}
			return nil
		})
	}
	return errors.New("no such request of a broker")
}

func ofConfiguration(ctx context.Context, store configuration.Store, news chan answer, wanted request) (answer, error) {
	switch wanted.Do {
	case "get":
		found, err := store.Get(ctx, &configuration.GetRequest{Keys: []string{wanted.Key}})
		if err != nil || found.Items[wanted.Key] == nil {
			return answer{}, err
		}
		item := found.Items[wanted.Key]
		return answer{Value: []byte(item.Value), Version: item.Version, Metadata: item.Metadata}, nil
	case "subscribe":
		asked := &configuration.SubscribeRequest{Keys: []string{wanted.Key}, Metadata: wanted.Metadata}
		_, err := store.Subscribe(context.Background(), asked, func(_ context.Context, told *configuration.UpdateEvent) error {
			for key, item := range told.Items {
				news <- answer{Key: key, Value: []byte(item.Value), Version: item.Version, Metadata: item.Metadata}
			}
			return nil
		})
		return answer{}, err
	}
	return answer{}, errors.New("no such request of a configuration store")
}

func ofLock(ctx context.Context, store lock.Store, wanted request) (answer, error) {
	switch wanted.Do {
	case "lock":
		told, err := store.TryLock(ctx, &lock.TryLockRequest{ResourceID: wanted.Key, LockOwner: wanted.Owner, ExpiryInSeconds: 60})
		if err != nil {
			return answer{}, err
		}
		return answer{Taken: told.Success}, nil
	case "unlock":
		told, err := store.Unlock(ctx, &lock.UnlockRequest{ResourceID: wanted.Key, LockOwner: wanted.Owner})
		if err != nil {
			return answer{}, err
		}
		return answer{Status: int(told.Status)}, nil
	}
	return answer{}, errors.New("no such request of a lock store")
}

func do(wanted request) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if wanted.Do == "open" {
		return answer{}, open(ctx, wanted)
	}
	of := components[wanted.Of]
	if of == nil {
		return answer{}, fmt.Errorf("no component %q", wanted.Of)
	}
	if wanted.Do == "next" {
		select {
		case told := <-of.news:
			return told, nil
		case <-ctx.Done():
			return answer{}, errors.New("nothing came")
		}
	}
	switch it := of.it.(type) {
	case state.Store:
		return ofState(ctx, it, wanted)
	case pubsub.PubSub:
		return answer{}, ofPubsub(ctx, it, of.news, wanted)
	case configuration.Store:
		return ofConfiguration(ctx, it, of.news, wanted)
	case lock.Store:
		return ofLock(ctx, it, wanted)
	}
	return answer{}, fmt.Errorf("component %q is of no kind", wanted.Of)
}

func main() {
	// What it says itself would stand among the answers.
	quiet.SetOutputLevel(logger.FatalLevel)
	lines, out := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return
		}
		var wanted request
		if err == nil {
			err = json.Unmarshal(line, &wanted)
		}
		var told answer
		if err == nil {
			told, err = do(wanted)
		}
		if err != nil {
			told.Error = err.Error()
		}
		if err = out.Encode(told); err != nil {
			panic(err)
		}
	}
}
