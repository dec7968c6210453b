"""Takes orders and keeps them. Everything it needs comes from Dapr's own client; how it is reached is in the environment."""

import hashlib
import hmac
import json
import os

from dapr.clients import DaprClient
from dapr.clients.grpc._response import TopicEventResponse
from dapr.clients.grpc._state import Concurrency, StateOptions
from flask import Flask, request
from waitress import serve

STATE, PUBSUB, LOCKS, CONFIG, SECRETS, PAPERS = "state", "shop-pubsub", "locks", "config", "secrets", "papers"

app = Flask(__name__)
dapr = DaprClient()


@app.post("/orders")
def place():
    wish = request.get_json()
    answer = dapr.invoke_method("stock", "reserve", json.dumps(wish), content_type="application/json", http_verb="POST")
    reserved = answer.json()
    if not reserved["reserved"]:
        return {"error": f"only {reserved['left']} of {wish['item']} are left"}, 409
    order = {
        "id": f"order-{next_number()}",
        "customer": wish["customer"],
        "item": wish["item"],
        "quantity": wish["quantity"],
        "totalCents": reserved["priceCents"] * wish["quantity"],
        "currency": configured("currency", "EUR"),
        "status": "placed",
    }
    order["signature"] = signed(order)
    dapr.save_state(STATE, order["id"], json.dumps(order))
    paper = {"fileName": f"{order['id']}/order.json"}
    dapr.invoke_binding(PAPERS, "create", json.dumps(order), paper)
    event = {
        "orderId": order["id"],
        "customer": order["customer"],
        "items": order["quantity"],
        "totalCents": order["totalCents"],
        "currency": order["currency"],
    }
    dapr.publish_event(PUBSUB, "order.placed", json.dumps(event), data_content_type="application/json")
    return order, 201


@app.get("/orders/<order>")
def show(order):
    found = dapr.get_state(STATE, order)
    return json.loads(found.data) if found.data else ({"error": f"there is no {order}"}, 404)


def next_number():
    """Counts orders: one at a time, wherever this app runs."""
    while True:
        with dapr.try_lock(LOCKS, "order-number", f"orders-{os.getpid()}", 10) as lock:
            if lock.success:
                number = int(dapr.get_state(STATE, "last-number").data or 0) + 1
                dapr.save_state(STATE, "last-number", str(number))
                return number


def configured(key, otherwise):
    item = dapr.get_configuration(CONFIG, [key]).items.get(key)
    return item.value if item else otherwise


def signed(order):
    key = dapr.get_secret(SECRETS, "orders-key").secret["orders-key"]
    text = f"{order['id']}|{order['totalCents']}|{order['currency']}"
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


def shipped(event):
    """Writes down what billing and shipping did; if somebody else wrote in between, the event comes again."""
    news = event.data()
    found = dapr.get_state(STATE, news["orderId"])
    order = json.loads(found.data) | {"status": "shipped", "invoice": news["invoice"], "parcel": news["parcel"]}
    first = StateOptions(concurrency=Concurrency.first_write)
    dapr.save_state(STATE, order["id"], json.dumps(order), etag=found.etag, options=first)
    return TopicEventResponse("success")


dapr.subscribe_with_handler(PUBSUB, "order.shipped", shipped)
serve(app, host="127.0.0.1", port=int(os.environ["APP_PORT"]))
