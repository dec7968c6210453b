"""Dapr's own Python SDK against two sidecars: one beside an app that speaks HTTP, one beside this program, an app that
speaks gRPC. Says `ok` when everything was as the SDK's users expect it."""

import os
import queue
import sqlite3
from concurrent import futures

import grpc
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType
from dapr.clients.grpc._response import UnlockResponseStatus
from dapr.clients.grpc._state import Concurrency, Consistency, StateItem, StateOptions
from dapr.proto import appcallback_v1
from dapr.proto.runtime.v1 import appcallback_pb2_grpc

PATIENCE = 60
EVENTS = queue.Queue()


class Callback(appcallback_pb2_grpc.AppCallbackServicer, appcallback_pb2_grpc.AppCallbackHealthCheckServicer):
    def ListTopicSubscriptions(self, request, context):
        own = appcallback_v1.TopicSubscription(pubsub_name="pubsub", topic="greetings")
        return appcallback_v1.ListTopicSubscriptionsResponse(subscriptions=[own])

    def OnTopicEvent(self, request, context):
        EVENTS.put(request)
        return appcallback_v1.TopicEventResponse()

    def HealthCheck(self, request, context):
        return appcallback_v1.HealthCheckResponse()


def serve(port):
    """The app that speaks gRPC: Dapr's callbacks, and a service of its own that carries bytes."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    appcallback_pb2_grpc.add_AppCallbackServicer_to_server(Callback(), server)
    appcallback_pb2_grpc.add_AppCallbackHealthCheckServicer_to_server(Callback(), server)

    def hello(request, context):
        context.set_trailing_metadata((("x-after", "yes"),))
        if request == b"nobody":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such person")
        caller = dict(context.invocation_metadata()).get("dapr-caller-app-id", "")
        return b"hello " + request + b" from " + caller.encode()

    def echo(requests, context):
        for request in requests:
            yield request.upper()

    handlers = {
        "Hello": grpc.unary_unary_rpc_method_handler(hello),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("greet.Greeter", handlers),))
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    return server


def refused(code, call):
    try:
        call()
    except (DaprGrpcError, grpc.RpcError) as error:
        assert error.code() == code, (error.code(), error)
        return error
    raise AssertionError(f"nothing was refused; {code} was expected")


def state(dapr):
    dapr.save_state("statestore", "k", b"\x00bytes", state_metadata={"ttlInSeconds": "600"})
    got = dapr.get_state("statestore", "k")
    assert got.data == b"\x00bytes" and got.etag, got
    first = StateOptions(concurrency=Concurrency.first_write, consistency=Consistency.strong)
    refused(grpc.StatusCode.ABORTED, lambda: dapr.save_state("statestore", "k", "x", etag="999", options=first))
    dapr.save_state("statestore", "k", "text", etag=got.etag, options=first)
    dapr.save_bulk_state("statestore", [StateItem(key="a", value="1"), StateItem(key="b", value="2")])
    items = {item.key: item.data for item in dapr.get_bulk_state("statestore", ["a", "b", "none"]).items}
    assert items == {"a": b"1", "b": b"2", "none": b""}, items
    step = TransactionalStateOperation
    dapr.execute_state_transaction(
        "statestore",
        [
            step(key="a", data="3", operation_type=TransactionOperationType.upsert),
            step(key="b", data="", operation_type=TransactionOperationType.delete),
        ],
    )
    assert (dapr.get_state("statestore", "a").data, dapr.get_state("statestore", "b").data) == (b"3", b"")
    dapr.delete_state("statestore", "a")
    assert dapr.get_state("statestore", "a").data == b""
    missing = refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: dapr.get_state("nowhere", "k"))
    details = missing.get_status_details() if hasattr(missing, "get_status_details") else missing._details
    assert details.error_info["reason"] == "DAPR_STATE_NOT_FOUND", details.error_info


def messages(dapr, greeter):
    stream = dapr.subscribe(pubsub_name="pubsub", topic="orders")
    dapr.publish_event("pubsub", "orders", '{"n": 1}', data_content_type="application/json")
    event = stream.next_message()
    assert event.data() == {"n": 1} and event.topic() == "orders", event.data()
    stream.respond_retry(event)
    again = stream.next_message()
    assert again.id() == event.id()
    stream.respond_success(again)
    stream.close()
    greeter.publish_event("pubsub", "greetings", "hello", data_content_type="text/plain")
    event = EVENTS.get(timeout=PATIENCE)
    assert (event.data, event.topic, event.path) == (b"hello", "greetings", ""), event


def secrets(dapr):
    assert dapr.get_secret("vault", "password").secret == {"password": "hunter2"}
    assert dapr.get_bulk_secret("vault").secrets == {"password": {"password": "hunter2"}}
    refused(grpc.StatusCode.INTERNAL, lambda: dapr.get_secret("vault", "nothing"))


def configuration(dapr):
    news = queue.Queue()
    ready = dapr.subscribe_configuration("config", ["colour"], lambda id, told: news.put((id, told.items)))
    store = sqlite3.connect("config.db", timeout=PATIENCE)
    with store:
        (version,) = store.execute("UPDATE configuration_version SET last = last + 1 RETURNING last").fetchone()
        row = ("colour", "red", version, "{}", False, 0)
        store.execute("INSERT INTO configuration VALUES (?, ?, ?, ?, ?, ?)", row)
    store.close()
    id, items = news.get(timeout=PATIENCE)
    assert (id, items["colour"].value) == (ready, "red"), items
    assert dapr.get_configuration("config", ["colour"]).items["colour"].value == "red"
    assert dapr.unsubscribe_configuration("config", ready)


def locks(dapr):
    with dapr.try_lock("locks", "door", "me", 60) as lock:
        assert lock.success
        assert not dapr.try_lock("locks", "door", "you", 60).success
        assert dapr.unlock("locks", "door", "you").status == UnlockResponseStatus.lock_belongs_to_others
    assert dapr.unlock("locks", "door", "me").status == UnlockResponseStatus.lock_does_not_exist


def bindings(dapr):
    name = {"fileName": "python.txt"}
    dapr.invoke_binding("files", "create", b"python", name)
    assert dapr.invoke_binding("files", "get", b"", name).data == b"python"
    refused(grpc.StatusCode.INTERNAL, lambda: dapr.invoke_binding("files", "paint", b""))


def metadata(dapr):
    dapr.set_metadata("team", "blue")
    told = dapr.get_metadata()
    assert told.application_id == "orders" and told.extended_metadata["team"] == "blue", told
    names = sorted(component.name for component in told.registered_components)
    assert names == ["config", "files", "locks", "pubsub", "statestore", "vault"], names


def invocation(dapr, channel):
    told = dapr.invoke_method("orders", "orders", b"one", content_type="text/plain", http_verb="POST")
    assert told.data == b"got one", told.data
    called = (("dapr-app-id", "greeter"),)
    hello = channel.unary_unary("/greet.Greeter/Hello")
    answer, call = hello.with_call(b"you", metadata=called, timeout=PATIENCE)
    assert answer == b"hello you from orders", answer
    assert dict(call.trailing_metadata())["x-after"] == "yes"
    refused(grpc.StatusCode.NOT_FOUND, lambda: hello(b"nobody", metadata=called, timeout=PATIENCE))
    echo = channel.stream_stream("/greet.Greeter/Echo")
    said = queue.Queue()
    answers = echo(iter(said.get, None), metadata=called, timeout=PATIENCE)
    for word in [b"one", b"two"]:
        said.put(word)
        assert next(answers) == word.upper()
    said.put(None)
    assert list(answers) == []


def main():
    server = serve(int(os.environ["GREETER_PORT"]))
    with DaprClient() as dapr, DaprClient(os.environ["GREETER_API"]) as greeter:
        state(dapr)
        messages(dapr, greeter)
        secrets(dapr)
        configuration(dapr)
        locks(dapr)
        bindings(dapr)
        metadata(dapr)
        with grpc.insecure_channel(os.environ["ORDERS_API"]) as channel:
            invocation(dapr, channel)
        greeter.shutdown()
        dapr.shutdown()
    server.stop(None)
    print("ok")


main()
