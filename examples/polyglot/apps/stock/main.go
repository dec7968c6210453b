// Keeps the stock: reserves what is ordered, and orders more when little is left.
package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"net/url"
	"os"
	"strconv"
	"time"

	dapr "github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
	daprd "github.com/dapr/go-sdk/service/http"
)

const (
	store   = "state"
	pubsub  = "shop-pubsub"
	locks   = "locks"
	config  = "config"
	secrets = "secrets"
	papers  = "papers"
)

// item is what there is of one thing.
type item struct {
	Name       string `json:"name"`
	PriceCents int    `json:"priceCents"`
	Grams      int    `json:"grams"`
	Left       int    `json:"left"`
}

type wish struct {
	Item     string `json:"item"`
	Quantity int    `json:"quantity"`
}

type answer struct {
	Reserved   bool `json:"reserved"`
	PriceCents int  `json:"priceCents"`
	Left       int  `json:"left"`
}

// stock is the app: all that it has is a client.
type stock struct{ dapr dapr.Client }

func main() {
	client, err := dapr.NewClient()
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	app := stock{client}
	service := daprd.NewService("127.0.0.1:" + os.Getenv("APP_PORT"))
	low := &common.Subscription{PubsubName: pubsub, Topic: "stock.low", Route: "/low"}
	for _, err := range []error{
		service.AddServiceInvocationHandler("/reserve", app.reserve),
		service.AddServiceInvocationHandler("/items", app.show),
		service.AddTopicEventHandler(low, app.reorder),
	} {
		if err != nil {
			log.Fatal(err)
		}
	}
	log.Fatal(service.Start())
}

// reserve takes from the stock, unless it has too little.
func (app stock) reserve(ctx context.Context, in *common.InvocationEvent) (*common.Content, error) {
	var asked wish
	if err := json.Unmarshal(in.Data, &asked); err != nil {
		return nil, err
	}
	told := answer{}
	found, err := app.change(ctx, asked.Item, func(found *item) {
		if told = (answer{PriceCents: found.PriceCents}); found.Left >= asked.Quantity {
			told.Reserved = true
			found.Left -= asked.Quantity
		}
		told.Left = found.Left
	})
	if err != nil {
		return nil, err
	}
	if told.Reserved && found.Left < app.reorderBelow(ctx) {
		if err := app.dapr.PublishEvent(ctx, pubsub, "stock.low", wish{asked.Item, 12}); err != nil {
			return nil, err
		}
	}
	return content(told)
}

func (app stock) show(ctx context.Context, in *common.InvocationEvent) (*common.Content, error) {
	query, err := url.ParseQuery(in.QueryString)
	if err != nil {
		return nil, err
	}
	found, _, err := app.read(ctx, query.Get("name"))
	if err != nil {
		return nil, err
	}
	return content(found)
}

// reorder writes a signed order to the supplier and puts what it brings on the shelf.
func (app stock) reorder(ctx context.Context, event *common.TopicEvent) (retry bool, err error) {
	var more wish
	if err := event.Struct(&more); err != nil {
		return false, err
	}
	freight, err := app.dapr.InvokeMethod(ctx, "couriers", fmt.Sprintf("quote?item=%s&quantity=%d", more.Item, more.Quantity), "get")
	if err != nil {
		return true, err
	}
	key, err := app.dapr.GetSecret(ctx, secrets, "stock-key", nil)
	if err != nil {
		return true, err
	}
	seal := hmac.New(sha256.New, []byte(key["stock-key"]))
	fmt.Fprintf(seal, "%s|%d", more.Item, more.Quantity)
	paper, err := json.Marshal(map[string]any{"wanted": more, "freight": json.RawMessage(freight), "seal": hex.EncodeToString(seal.Sum(nil))})
	if err != nil {
		return false, err
	}
	name := map[string]string{"fileName": "reorders/" + event.ID + ".json"}
	order := &dapr.InvokeBindingRequest{Name: papers, Operation: "create", Data: paper, Metadata: name}
	if err := app.dapr.InvokeOutputBinding(ctx, order); err != nil {
		return true, err
	}
	_, err = app.change(ctx, more.Item, func(found *item) { found.Left += more.Quantity })
	return err != nil, err
}

// change reads an item, changes it and writes it, while nobody else does.
func (app stock) change(ctx context.Context, name string, how func(*item)) (item, error) {
	owner := fmt.Sprintf("%s-%d", os.Getenv("DODAI_INSTANCE"), time.Now().UnixNano())
	for {
		lock, err := app.dapr.TryLockAlpha1(ctx, locks, &dapr.LockRequest{LockOwner: owner, ResourceID: name, ExpiryInSeconds: 10})
		if err != nil {
			return item{}, err
		}
		if lock.Success {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	defer app.dapr.UnlockAlpha1(ctx, locks, &dapr.UnlockRequest{LockOwner: owner, ResourceID: name})
	found, etag, err := app.read(ctx, name)
	if err != nil {
		return item{}, err
	}
	how(&found)
	value, err := json.Marshal(found)
	if err != nil {
		return item{}, err
	}
	first := dapr.WithConcurrency(dapr.StateConcurrencyFirstWrite)
	return found, app.dapr.SaveStateWithETag(ctx, store, name, value, etag, nil, first)
}

// read tells what there is of an item; at the beginning there are eight of everything.
func (app stock) read(ctx context.Context, name string) (item, string, error) {
	found := item{Name: name, PriceCents: 1850, Grams: 640, Left: 8}
	kept, err := app.dapr.GetState(ctx, store, name, nil)
	if err != nil || len(kept.Value) == 0 {
		return found, "", err
	}
	return found, kept.Etag, json.Unmarshal(kept.Value, &found)
}

func (app stock) reorderBelow(ctx context.Context) int {
	kept, err := app.dapr.GetConfigurationItem(ctx, config, "reorder-below")
	if err != nil || kept == nil {
		return 5
	}
	below, err := strconv.Atoi(kept.Value)
	if err != nil {
		return 5
	}
	return below
}

func content(value any) (*common.Content, error) {
	data, err := json.Marshal(value)
	return &common.Content{Data: data, ContentType: "application/json"}, err
}
