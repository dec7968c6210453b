// Dapr's own Go SDK against the sidecar beside this program, which is an app itself: one that speaks HTTP, or with the
// argument `grpc` one that speaks gRPC. Says `following` once it hears of changes of the configuration, and `ok` when
// everything was as the SDK's users expect it.
package main

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	dapr "github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
	daprdgrpc "github.com/dapr/go-sdk/service/grpc"
	daprd "github.com/dapr/go-sdk/service/http"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

const patience = 60 * time.Second

var ctx, cancel = context.WithTimeout(context.Background(), patience)

func must[T any](value T, err error) T {
	done(err)
	return value
}

func done(err error) {
	if err != nil {
		panic(err)
	}
}

func same(got, expect any) {
	if !reflect.DeepEqual(got, expect) {
		panic(fmt.Sprintf("got %#v instead of %#v", got, expect))
	}
}

func refused(code codes.Code, err error) {
	for one := err; one != nil; {
		if told, is := status.FromError(one); is && told.Code() == code {
			return
		}
		next, can := one.(interface{ Unwrap() error })
		if !can {
			break
		}
		one = next.Unwrap()
	}
	panic(fmt.Sprintf("got %v where %v was expected", err, code))
}

// serve is what this app has over HTTP and over gRPC: what Dapr brings to it comes out of the channels.
func serve(service common.Service) (orders, ticks chan string) {
	orders, ticks = make(chan string, 100), make(chan string, 100)
	subscription := &common.Subscription{PubsubName: "pubsub", Topic: "orders", Route: "/orders"}
	done(service.AddTopicEventHandler(subscription, func(_ context.Context, event *common.TopicEvent) (bool, error) {
		orders <- string(event.RawData)
		return false, nil
	}))
	done(service.AddServiceInvocationHandler("echo", func(_ context.Context, in *common.InvocationEvent) (*common.Content, error) {
		data := fmt.Sprintf("%s %s %s", in.Verb, in.QueryString, in.Data)
		return &common.Content{Data: []byte(data), ContentType: "text/plain"}, nil
	}))
	done(service.AddBindingInvocationHandler("tick", func(_ context.Context, in *common.BindingEvent) ([]byte, error) {
		for name := range in.Metadata {
			if strings.EqualFold(name, "timezone") {
				ticks <- string(in.Data)
			}
		}
		return nil, nil
	}))
	return orders, ticks
}

func state(client dapr.Client) {
	done(client.SaveState(ctx, "statestore", "k", []byte("\x00bytes"), map[string]string{"ttlInSeconds": "600"}))
	got := must(client.GetState(ctx, "statestore", "k", nil))
	same(got.Value, []byte("\x00bytes"))
	must(time.Parse(time.RFC3339, got.Metadata["ttlExpireTime"]))
	first := dapr.WithConcurrency(dapr.StateConcurrencyFirstWrite)
	refused(codes.Aborted, client.SaveStateWithETag(ctx, "statestore", "k", []byte("x"), "999", nil, first))
	done(client.SaveStateWithETag(ctx, "statestore", "k", []byte("text"), got.Etag, nil, first))
	one, two := &dapr.SetStateItem{Key: "a", Value: []byte("1")}, &dapr.SetStateItem{Key: "b", Value: []byte("2")}
	done(client.SaveBulkState(ctx, "statestore", one, two))
	bulk := map[string]string{}
	for _, item := range must(client.GetBulkState(ctx, "statestore", []string{"a", "b", "none"}, nil, 10)) {
		bulk[item.Key] = string(item.Value)
	}
	same(bulk, map[string]string{"a": "1", "b": "2", "none": ""})
	done(client.ExecuteStateTransaction(ctx, "statestore", nil, []*dapr.StateOperation{
		{Type: dapr.StateOperationTypeUpsert, Item: &dapr.SetStateItem{Key: "a", Value: []byte("3")}},
		{Type: dapr.StateOperationTypeDelete, Item: &dapr.SetStateItem{Key: "b"}},
	}))
	same(string(must(client.GetState(ctx, "statestore", "a", nil)).Value), "3")
	same(len(must(client.GetState(ctx, "statestore", "b", nil)).Value), 0)
	done(client.DeleteBulkState(ctx, "statestore", []string{"a"}, nil))
	done(client.DeleteState(ctx, "statestore", "k", nil))
	same(len(must(client.GetState(ctx, "statestore", "k", nil)).Value), 0)
	_, err := client.GetState(ctx, "nowhere", "k", nil)
	refused(codes.InvalidArgument, err)
}

func published(client dapr.Client, orders chan string) {
	for got := ""; got == ""; {
		// Until the sidecar has asked for subscriptions, nobody hears.
		done(client.PublishEvent(ctx, "pubsub", "orders", map[string]int{"n": 1}))
		select {
		case got = <-orders:
			same(got, `{"n":1}`)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func streams(client dapr.Client) {
	streamed, tries := make(chan string, 100), 0
	options := dapr.SubscriptionOptions{PubsubName: "pubsub", Topic: "streamed"}
	stop := must(client.SubscribeWithHandler(ctx, options, func(event *common.TopicEvent) common.SubscriptionResponseStatus {
		if tries++; tries == 1 {
			return common.SubscriptionResponseStatusRetry
		}
		streamed <- string(event.RawData)
		return common.SubscriptionResponseStatusSuccess
	}))
	failed := client.PublishEvents(ctx, "pubsub", "streamed", []any{"one"})
	done(failed.Error)
	same(<-streamed, "one")
	same(tries, 2)
	done(stop())
}

func configuration(client dapr.Client) {
	news := make(chan string, 1)
	id := must(client.SubscribeConfigurationItems(ctx, "config", []string{"colour"}, func(_ string, items map[string]*dapr.ConfigurationItem) {
		news <- items["colour"].Value
	}))
	fmt.Println("following")
	same(<-news, "red")
	same(must(client.GetConfigurationItem(ctx, "config", "colour")).Value, "red")
	done(client.UnsubscribeConfigurationItems(ctx, "config", id))
}

func locks(client dapr.Client) {
	door := func(owner string) *dapr.LockRequest {
		return &dapr.LockRequest{ResourceID: "door", LockOwner: owner, ExpiryInSeconds: 60}
	}
	same(must(client.TryLockAlpha1(ctx, "locks", door("me"))).Success, true)
	same(must(client.TryLockAlpha1(ctx, "locks", door("you"))).Success, false)
	yours := must(client.UnlockAlpha1(ctx, "locks", &dapr.UnlockRequest{ResourceID: "door", LockOwner: "you"}))
	same(yours.Status, "LOCK_BELONGS_TO_OTHERS")
	mine := must(client.UnlockAlpha1(ctx, "locks", &dapr.UnlockRequest{ResourceID: "door", LockOwner: "me"}))
	same(mine.Status, "SUCCESS")
}

// overGrpc is all that reaches an app by the SDK's own gRPC server. It alone takes jobs.
func overGrpc(client dapr.Client) {
	service := must(daprdgrpc.NewService("127.0.0.1:" + os.Getenv("APP_PORT")))
	orders, ticks := serve(service)
	ran := make(chan string, 100)
	done(service.AddJobEventHandler("report", func(_ context.Context, job *common.JobEvent) error {
		ran <- job.JobType + " " + string(job.Data)
		return nil
	}))
	done(service.AddHealthCheckHandler("", func(context.Context) error { return nil }))
	go func() { done(service.Start()) }()
	done(client.Wait(ctx, patience))
	published(client, orders)
	same(<-ticks, "")
	content := &dapr.DataContent{Data: []byte("one"), ContentType: "text/plain"}
	same(string(must(client.InvokeMethodWithContent(ctx, "peer", "echo", "post", content))), "POST  one")
	job := &dapr.Job{Name: "report", Schedule: "@every 1h", Repeats: 2, DueTime: "0s", Data: &anypb.Any{Value: []byte(`{"n":1}`)}}
	done(client.ScheduleJobAlpha1(ctx, job))
	same(<-ran, `report {"n":1}`)
	got := must(client.GetJobAlpha1(ctx, "report"))
	same([]any{got.Name, got.Schedule, got.Repeats, string(got.Data.GetValue())}, []any{"report", "@every 1h", uint32(2), `{"n":1}`})
	done(client.DeleteJobAlpha1(ctx, "report"))
	_, err := client.GetJobAlpha1(ctx, "report")
	refused(codes.Internal, err)
}

func overHTTP(client dapr.Client) {
	service := daprd.NewService("127.0.0.1:" + os.Getenv("APP_PORT"))
	orders, ticks := serve(service)
	go func() { done(service.Start()) }()
	done(client.Wait(ctx, patience))
	state(client)
	published(client, orders)
	same(<-ticks, "")
	streams(client)
	same(must(client.GetSecret(ctx, "vault", "password", nil)), map[string]string{"password": "hunter2"})
	same(must(client.GetBulkSecret(ctx, "vault", nil)), map[string]map[string]string{"password": {"password": "hunter2"}})
	configuration(client)
	locks(client)
	file := &dapr.InvokeBindingRequest{Name: "files", Operation: "create", Data: []byte("go"), Metadata: map[string]string{"fileName": "go.txt"}}
	done(client.InvokeOutputBinding(ctx, file))
	file.Operation, file.Data = "get", nil
	same(string(must(client.InvokeBinding(ctx, file)).Data), "go")
	_, err := client.InvokeBinding(ctx, &dapr.InvokeBindingRequest{Name: "files", Operation: "paint"})
	refused(codes.Internal, err)
	same(string(must(client.InvokeMethodWithContent(ctx, "orders", "orders", "post", &dapr.DataContent{Data: []byte("one"), ContentType: "text/plain"}))), "got one")
	same(string(must(client.InvokeMethod(ctx, "peer", "echo?n=1", "get"))), "GET n=1 ")
	_, err = client.InvokeMethod(ctx, "orders", "nothing", "get")
	refused(codes.NotFound, err)
	done(client.SetMetadata(ctx, "team", "blue"))
	told := must(client.GetMetadata(ctx))
	same([]string{told.ID, told.ExtendedMetadata["team"]}, []string{"peer", "blue"})
	names := []string{}
	for _, component := range told.RegisteredComponents {
		names = append(names, component.Name)
	}
	same(strings.Join(names, " "), "config files locks pubsub statestore tick vault")
}

func main() {
	defer cancel()
	client := must(dapr.NewClient())
	if len(os.Args) > 1 {
		overGrpc(client)
	} else {
		overHTTP(client)
	}
	done(client.Shutdown(ctx))
	fmt.Println("ok")
}
